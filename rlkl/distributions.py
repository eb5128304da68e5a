"""Public action distributions."""

from rlkl.numerics.beta import *
from rlkl.numerics.distributions import *
