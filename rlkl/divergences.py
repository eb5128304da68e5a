"""Public divergences of action distributions: exact, estimated, and as formulas."""

from rlkl.numerics.divergence_estimates import *
from rlkl.numerics.divergence_formulas import *
from rlkl.numerics.divergences import *
