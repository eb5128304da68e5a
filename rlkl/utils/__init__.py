"""Errors, seeds, files, signals and cores: what every package may use."""
