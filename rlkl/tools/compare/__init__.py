"""Compares groups of runs: which is better, by how much, how certain that is, and why."""
