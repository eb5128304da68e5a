"""Every way to step environments, behind one contract."""
