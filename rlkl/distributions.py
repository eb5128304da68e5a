"""The public name of `rlkl.numerics.distributions`."""

from rlkl.numerics.distributions import *
