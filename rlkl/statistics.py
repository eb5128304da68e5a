"""Public statistics of scores."""

from rlkl.numerics.statistics import *
