"""What several runs say together: which algorithm is better, by how much, how surely, and why."""
