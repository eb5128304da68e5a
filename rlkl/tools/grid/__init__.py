"""Many runs as one grid: a folder that holds them, a process for each, and one display of all."""
