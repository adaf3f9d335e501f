"""The only place where scipy is imported."""

import warnings
from typing import Any

import numpy as np

from longstate._checks import InputError


def signal() -> Any:
    """`scipy.signal`.

    Raises:
        InputError: If scipy is missing.
    """
    try:
        import scipy.signal
    except ModuleNotFoundError as error:
        raise InputError(
            "a system of scipy was asked for, but scipy is not installed; run `pip install 'longstate[control]'`."
        ) from error
    return scipy.signal


def lyapunov(A: np.ndarray, *, discrete: bool) -> np.ndarray:
    """P of A' P A - P = -I, or of A' P + P A = -I; NaN or anything else where there is no such matrix."""
    signal()
    import scipy.linalg

    eye = np.eye(len(A))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an ill-conditioned equation: whoever calls checks what comes out
        try:
            if discrete:
                return scipy.linalg.solve_discrete_lyapunov(A.T, eye)
            return scipy.linalg.solve_continuous_lyapunov(A.T, -eye)
        except np.linalg.LinAlgError:
            return np.full_like(A, np.nan)
