"""Public action distributions."""

from rlkl.numerics.distributions import *
