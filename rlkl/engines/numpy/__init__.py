"""The NumPy engine: perceptrons on a CPU, several times as fast as torch."""
