"""Programs that stages run inside actions. Standard library only; each is run as a script."""
