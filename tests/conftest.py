"""What every test runs under: one thread, and the same examples each time."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("rlkl", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("rlkl")
