"""Tuning: which values of a config's keys train best, tried one after the other."""
