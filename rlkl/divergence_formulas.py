"""Public formulas of divergences."""

from rlkl.numerics.divergence_formulas import *
