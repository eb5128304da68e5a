"""Experience: collected, then turned into a batch."""
