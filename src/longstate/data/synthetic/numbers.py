"""Tasks over numbers: what a signal was, and what a chaotic one will be."""

from typing import NamedTuple

import numpy as np

from longstate._checks import InputError, check_positive
from longstate.data.randomness import random_generator

STEPS = 10
"""Steps of the integration between two samples of the Mackey-Glass series."""


class NumberTask(NamedTuple):
    """Signals and the number to be said at each of their steps, float64 (count, length); NaN where none is asked."""

    x: np.ndarray
    y: np.ndarray


def delay(count: int, seed: int, *, length: int = 1024, lag: int = 256, band: float = 0.05) -> NumberTask:
    """Say what a random signal was some steps before: the memory of a layer, measured.

        y_t = x_{t - lag},    x: white noise below a frequency, with a variance of 1

    Args:
        count: Sequences.
        seed: Other signals for another seed.
        length: Steps.
        lag: How long ago.
        band: Largest frequency in cycles a step: 2 band lag numbers have to be remembered.

    Returns:
        Signals, and their delayed selves; the first `lag` steps do not count.

    Raises:
        InputError: If a size is not usable.

    Source: Gu et al., How to Train Your HiPPO, arXiv 2206.12037, section 4.3.

    Example:
        >>> task = delay(1, 0, length=100, lag=30)
        >>> bool((task.y[:, 30:] == task.x[:, :70]).all()), int(np.isnan(task.y).sum())
        (True, 30)
    """
    check_positive(count=count, length=length, lag=lag)
    if lag >= length:
        raise InputError(f"`lag` is {lag} for a `length` of {length}, but steps after it are needed; make it smaller.")
    if not 1 / length <= band <= 0.5:
        raise InputError(
            f"`band` is {band} for a `length` of {length}, but a frequency from 1 / length to 0.5 cycles a step is "
            "needed; 0.05 is the default."
        )
    random = random_generator(seed)
    heard = int(band * length)
    spectrum = np.zeros((count, length // 2 + 1), dtype=np.complex128)
    spectrum[:, 1 : heard + 1] = random.normal(size=(count, heard, 2)).view(np.complex128)[..., 0]
    x = np.fft.irfft(spectrum, n=length, axis=1) * length / (2 * np.sqrt(heard))
    y = np.full_like(x, np.nan)
    y[:, lag:] = x[:, :-lag]
    return NumberTask(x, y)


def mackey_glass(
    count: int, seed: int, *, length: int = 1000, ahead: int = 15, tau: int = 17, before: int = 100
) -> NumberTask:
    """Say what a chaotic series will be some steps later.

        dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x(t),    y_t = x(t + ahead),    sampled at t = 0, 1, 2, ...

    The equation is integrated by the classical Runge-Kutta method in tenths of a sample, the delayed values between
    them by cubic interpolation. Each sequence starts from its own constant past and is cut out after the start is
    forgotten; the mean, about 0.9, is left in.

    Args:
        count: Sequences.
        seed: Other sequences for another seed.
        length: Steps.
        ahead: How far ahead.
        tau: The delay; 17 is weakly chaotic, 30 more so.
        before: Steps at the beginning that do not count, since too little was seen to know what follows.

    Returns:
        Series, and what they will be; the first `before` steps do not count.

    Raises:
        InputError: If a size is not usable.

    Source: Mackey, Glass, Science 197, 1977, equation 4b; the task is that of Voelker, Kajic, Eliasmith, Legendre
        Memory Units, NeurIPS 2019, section 3.4, which has 5,000 steps and counts all.

    Example:
        >>> task = mackey_glass(2, 0, length=50, before=10)
        >>> bool((task.y[:, 10:35] == task.x[:, 25:]).all()), int(np.isnan(task.y).sum())
        (True, 20)
    """
    check_positive(count=count, length=length, ahead=ahead, tau=tau, before=before + 1)
    if before >= length:
        raise InputError(
            f"`before` is {before} for a `length` of {length}, but steps after it are needed; make it smaller."
        )
    random = random_generator(seed)
    skipped = 20 * tau
    series = integrate(random.uniform(0.4, 1.4, size=count), samples=skipped + length + ahead, tau=tau)
    x, y = series[:, skipped : skipped + length], series[:, skipped + ahead :].copy()
    y[:, :before] = np.nan
    return NumberTask(x, y)


def integrate(past: np.ndarray, *, samples: int, tau: int) -> np.ndarray:
    """The Mackey-Glass equation from a constant past.

    Args:
        past: x(t) for t <= 0 (count,).
        samples: How many times.
        tau: The delay.

    Returns:
        x at t = 1, 2, .. samples, (count, samples) float64.
    """
    h, lag = 1 / STEPS, tau * STEPS
    x = np.empty((lag + samples * STEPS + 1, len(past)))
    slope = np.zeros_like(x)
    x[: lag + 1] = past
    slope[lag] = _slope(past, past)
    for now in range(lag, len(x) - 1):
        then = now - lag
        arriving, left, right = x[then + 1], slope[then], slope[then + 1]
        # the past is constant up to t = 0, where its slope jumps: what arrives before has the slope on its left
        right = np.zeros_like(right) if then + 1 == lag else right
        between = (x[then] + arriving) / 2 + h / 8 * (left - right)
        k1 = slope[now]
        k2 = _slope(x[now] + h / 2 * k1, between)
        k3 = _slope(x[now] + h / 2 * k2, between)
        k4 = _slope(x[now] + h * k3, arriving)
        x[now + 1] = x[now] + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        slope[now + 1] = _slope(x[now + 1], arriving)
    return x[lag + STEPS :: STEPS].T


def _slope(x: np.ndarray, delayed: np.ndarray) -> np.ndarray:
    square = delayed * delayed
    fourth = square * square
    return 0.2 * delayed / (1 + fourth * fourth * square) - 0.1 * x
