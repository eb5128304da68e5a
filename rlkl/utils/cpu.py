"""Counts the CPU cores that this process may use."""

import os


def usable_cores() -> int:
    """Return the number of usable cores, limited by affinity and a container's quota."""
    from joblib import cpu_count  # noqa: PLC0415

    return int(cpu_count())


def has_another_core() -> bool:
    """Return whether affinity allows a second core, without importing joblib, which is slow."""
    affinity = getattr(os, "sched_getaffinity", None)
    return (len(affinity(0)) if affinity else os.cpu_count() or 1) > 1
