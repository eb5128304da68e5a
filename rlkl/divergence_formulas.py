"""The public name of `rlkl.numerics.divergence_formulas`."""

from rlkl.numerics.divergence_formulas import *
