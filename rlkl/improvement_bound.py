"""Public bounds on a policy step."""

from rlkl.numerics.improvement_bound import *
