"""Coordinates in which a stable system never stretches its state, as the operators of long sequences want it."""

from typing import NamedTuple

import numpy as np

from longstate._checks import InputError
from longstate.diagnostics import scipy_door

_EDGE = 1e-9  # rounding: a pole is outside, a norm above 1, only beyond it
_DAMPING = 5e-10


class SISO(NamedTuple):
    """One input and one output: A (n, n), B (n,), C (n,), D, in float64."""

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    D: float


def contracted(system: SISO, number: int, *, discrete: bool) -> SISO:
    """The same system over T x, where P = T'T solves Lyapunov's equation; as it is if it contracts already.

        discrete      A' P A - P = -I, so that |T A T^-1| < 1
        continuous    A' P + P A = -I, so that every |e^(t T A T^-1)| < 1

    Args:
        system: A stable system, continuous or discrete.
        number: Which it is of several, for messages.
        discrete: Which of the two it is.

    Raises:
        InputError: If it is unstable, or so ill-conditioned that rounding leaves no such T.

    Example:
        >>> import numpy as np
        >>> from longstate.diagnostics.contraction import SISO, contracted
        >>> A = np.array([[0.5, 100.0], [0.0, 0.5]])
        >>> system = contracted(SISO(A, np.ones(2), np.ones(2), 0.0), 0, discrete=True)
        >>> bool(np.linalg.norm(system.A, 2) < 1)
        True
    """
    A, B, C, D = (np.asarray(part, dtype=np.float64) for part in system)
    _check_stable(A, number, discrete)
    if _contracts(A, discrete):
        return SISO(A, B, C, float(D))
    # A trace of damping gives single poles on the edge (an integrator) coordinates too; the system itself keeps its A.
    damped = A / (1 + _DAMPING) if discrete else A - _DAMPING * np.eye(len(A))
    P = scipy_door.lyapunov(damped, discrete=discrete)
    P = (P + P.T) / 2
    if np.isfinite(P).all() and np.linalg.eigvalsh(P).min() > 0:
        T = np.linalg.cholesky(P).T
        A = np.linalg.solve(T.T, (T @ A).T).T
        if _contracts(A, discrete):
            return SISO(A, T @ B, np.linalg.solve(T.T, C), float(D))
    raise InputError(
        f"system {number} is so ill-conditioned that its powers cannot be computed (or has a double pole on the edge "
        "of stability), but a well-conditioned one is needed; divide it into sections of second order "
        "(`scipy.signal.zpk2sos`), one layer each."
    )


def _check_stable(A: np.ndarray, number: int, discrete: bool) -> None:
    poles = np.linalg.eigvals(A)
    worst = max(np.abs(poles) if discrete else poles.real, default=0.0)
    if worst > (1 if discrete else 0) + _EDGE:
        raise InputError(
            f"system {number} has a pole of {'modulus' if discrete else 'real part'} {worst:.6g}, but a stable system "
            "is needed, since the output of this one grows for ever; check its coefficients."
        )


def _contracts(A: np.ndarray, discrete: bool) -> bool:
    if discrete:
        return bool(np.linalg.norm(A, 2) <= 1 + _EDGE)
    return bool(np.linalg.eigvalsh(A + A.T).max(initial=0.0) <= _EDGE)
