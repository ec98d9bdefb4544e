"""Reports of a run: folds over its journal, rendered for people and for other programs."""
