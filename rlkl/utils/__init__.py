"""Errors, seeds, files, signals and CPU cores, for use by all packages."""
