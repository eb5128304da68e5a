"""Mathematics of policy optimization, as pure functions."""
