"""Sources of metrics beside the router's own: each counts how many of how many, by release."""
