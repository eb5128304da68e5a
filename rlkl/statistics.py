"""Public statistics of scores."""

from rlkl.numerics.significance import *
from rlkl.numerics.statistics import *
