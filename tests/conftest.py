"""What every test shares: fixed seeds, deterministic operators, one thread, few but fixed random examples."""

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("longstate", derandomize=True, max_examples=10, deadline=None, database=None)
settings.load_profile("longstate")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


@pytest.fixture(autouse=True)
def _fixed_seeds():
    """Each test draws the same numbers, alone or among others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
