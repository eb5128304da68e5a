"""The public name of `rlkl.numerics.statistics`."""

from rlkl.numerics.statistics import *
