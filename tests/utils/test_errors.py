"""Errors that several packages raise and catch."""

import rlkl
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError


def test_config_errors_are_public_value_errors() -> None:
    assert rlkl.ConfigError is ConfigError
    assert issubclass(ConfigError, ValueError)
    assert not issubclass(BrokenEnvironmentError, ValueError)
