"""Mathematics of policy optimisation, as pure functions."""
