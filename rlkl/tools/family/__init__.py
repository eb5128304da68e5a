"""The comparison of the trust-region family: numbers from run folders, tables and figures."""
