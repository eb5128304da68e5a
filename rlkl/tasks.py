"""The public name of `rlkl.envs.memory_tasks`."""

from rlkl.envs.memory_tasks import *
