"""What every test runs under: one thread, the same examples each time, a browser if it asks."""

import torch
from browsing import browser, pages
from hypothesis import settings

__all__ = ["browser", "pages"]

torch.set_num_threads(1)
settings.register_profile("rlkl", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("rlkl")
