"""Measurements of Lockgate against peers in the same run: `./dev bench`. Ratios are the figures; seconds are the machine's."""
