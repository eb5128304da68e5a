"""The public name of `rlkl.numerics.divergences`."""

from rlkl.numerics.divergences import *
