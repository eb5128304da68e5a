"""The NumPy engine: MLPs on a CPU, several times as fast as torch."""
