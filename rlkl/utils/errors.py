"""Exceptions that several packages raise and catch."""


class ConfigError(ValueError):
    """The user asked for something that cannot be done.

    The message is one line: what was given, what was expected, how to fix it. Commands print it
    without a traceback and exit with a code other than 0.
    """


class MissingPackageError(ConfigError):
    """A package is needed that is not installed."""


class BrokenEnvironmentError(Exception):
    """An environment failed while it ran: it raised, or returned NaN or undeclared data.

    The message is one line and names the environment.
    """


class BrokenNetworkError(Exception):
    """A user's network failed while it ran; the message is one line and names it."""


class RankError(Exception):
    """Another rank failed or is gone; the message names it and the cause."""


class OtherRankError(RankError):
    """Another rank failed, and reports the error itself."""
