"""Behaviour cloning: fit a policy to the actions of another policy or of a data set."""
