"""Grids: many runs in one folder, each in a separate process, with one display."""
