"""The public name of `rlkl.numerics.improvement_bound`."""

from rlkl.numerics.improvement_bound import *
