"""Augmentation: pure functions of a batch and a random generator."""

import math

import torch
from torch import Generator, Tensor


def add_noise(x: Tensor, deviation: Tensor, amount: float, generator: Generator) -> Tensor:
    """Independent Gaussian noise on every value.

    Args:
        x: Batch (batch, length, channels).
        deviation: Standard deviation of each channel in the training recordings (channels,).
        amount: Standard deviation of the noise in units of `deviation`.
        generator: Where the randomness comes from; on the device of `x`.

    Returns:
        A new batch of the same shape.

    Example:
        >>> import torch
        >>> from longstate.training.augment import add_noise
        >>> x = torch.zeros(1, 1000, 2)
        >>> noisy = add_noise(x, torch.tensor([1.0, 10.0]), 0.1, torch.Generator().manual_seed(0))
        >>> [round(float(part), 1) for part in noisy.std(dim=(0, 1))]
        [0.1, 1.0]
    """
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + amount * deviation * noise


def scale_channels(x: Tensor, mean: Tensor, amount: float, generator: Generator) -> Tensor:
    """A random gain exp(amount * normal) of each channel of each row, about the channel's mean.

    Args:
        x: Batch (batch, length, channels).
        mean: Mean of each channel in the training recordings (channels,).
        amount: Standard deviation of the logarithm of the gain.
        generator: Where the randomness comes from; on the device of `x`.

    Returns:
        A new batch of the same shape.

    Example:
        >>> import torch
        >>> from longstate.training.augment import scale_channels
        >>> x = torch.tensor([[[1.0], [3.0], [5.0]]])
        >>> y = scale_channels(x, torch.tensor([3.0]), 0.5, torch.Generator().manual_seed(0))
        >>> float(y[0, 1, 0]), bool(y[0, 0, 0] + y[0, 2, 0] == 6.0)
        (3.0, True)
    """
    exponent = torch.randn(x.shape[0], 1, x.shape[2], generator=generator, device=x.device, dtype=x.dtype)
    return mean + (x - mean) * torch.exp(amount * exponent)


def flip_channels(x: Tensor, flipped: Tensor, generator: Generator) -> Tensor:
    """Change the sign of some channels together, in half of the rows: a sensor seen in a mirror.

    A left arm is a right arm in a mirror: of its accelerations the one across the body changes sign, and of its
    rotations the other two.

    Args:
        x: Batch (batch, length, channels).
        flipped: True for the channels whose sign changes (channels,).
        generator: Where the randomness comes from; on the device of `x`.

    Returns:
        A new batch of the same shape.

    Example:
        >>> import torch
        >>> from longstate.training.augment import flip_channels
        >>> x = torch.ones(100, 1, 2)
        >>> y = flip_channels(x, torch.tensor([True, False]), torch.Generator().manual_seed(0))
        >>> y[:, 0, 0].unique().tolist(), y[:, 0, 1].unique().tolist()
        ([-1.0, 1.0], [1.0])
    """
    rows = torch.rand(len(x), 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(rows & flipped, -x, x)


def random_rate(amount: float, generator: Generator) -> float:
    """A random speed exp(amount * normal), to be given to a model as its `rate`: the model changes, not the data.

    Args:
        amount: Standard deviation of the logarithm of the rate.
        generator: Where the randomness comes from.

    Returns:
        The rate, a positive number; 1.0 is the speed of the recordings.

    Example:
        >>> import torch
        >>> from longstate.training.augment import random_rate
        >>> random_rate(0.0, torch.Generator().manual_seed(0))
        1.0
    """
    return math.exp(amount * float(torch.randn((), generator=generator, device=generator.device)))
