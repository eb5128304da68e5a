"""The mathematics of policy optimisation, as pure functions."""
