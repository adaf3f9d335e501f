"""Where chance comes from: numpy's generator, keyed by whole numbers."""

import numpy as np

from longstate._checks import InputError


def random_generator(seed: int, *place: int) -> np.random.Generator:
    """The generator of a seed and a place (an epoch, say): the same numbers for the same key, unrelated otherwise."""
    if seed < 0:
        raise InputError(f"`seed` is {seed}, but a whole number from 0 is needed; choose another seed.")
    return np.random.default_rng((seed, *place))
