"""Hyperparameter tuning: trials of a search space, run by Optuna."""
