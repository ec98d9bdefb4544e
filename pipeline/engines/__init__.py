"""What executes actions: `host` and `dagger`."""
