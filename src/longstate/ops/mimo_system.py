"""A diagonal discrete system with many inputs and many outputs on one state."""

from typing import NamedTuple

from torch import Tensor

from longstate._checks import InputError


class MIMOSystem(NamedTuple):
    """One system with H inputs and H outputs on P complex modes.

        x_t = A_t x_{t-1} + gain_t (B u_t),        y_t = Re(C x_t) + D u_t

    Attributes:
        A: Transition of each mode: (P,), or with leading axes where it varies: (batch, length, P) over a sequence,
            (batch, P) in one step.
        gain: What the step size does to the input of each mode, (P,) or with the same leading axes. It is kept apart
            from B, so that steps of varying length never need a B of their own for every element.
        B: Input (P, H).
        C: Output (H, P). Where conjugate modes are left out, their factor 2 is in C.
        D: Skip (H,), real.

    All complex but D. Build it in float64 and complex128 from parameters cast first; the operators cast at each use.
    """

    A: Tensor
    gain: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def check_mimo(system: MIMOSystem, lead: tuple[int, ...]) -> None:
    """Raise unless the shapes belong together, A and gain being (P,) or (*lead, P)."""
    A, gain, B, C, D = system
    modes, features = B.shape if B.dim() == 2 else (-1, -1)
    allowed = ((modes,), (*lead, modes))
    fits = A.shape in allowed and gain.shape in allowed and C.shape == (features, modes) and D.shape == (features,)
    if not fits:
        varying = ", ".join(map(str, [*lead, "P"]))
        raise InputError(
            f"the system has A {tuple(A.shape)}, gain {tuple(gain.shape)}, B {tuple(B.shape)}, C {tuple(C.shape)}, "
            f"D {tuple(D.shape)}, but (P,) or ({varying}) for A and gain, (P, H), (H, P), (H,) are needed; "
            "check which axis is H."
        )
