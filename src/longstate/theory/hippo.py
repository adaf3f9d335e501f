"""HiPPO measures: the state matrices that make a linear system remember its input."""

from typing import NamedTuple

from torch import Tensor

from longstate._checks import InputError, check_positive
from longstate.theory.fourier import fourier, fourier_diag
from longstate.theory.laguerre import glagt, lagt, tlagt
from longstate.theory.legendre import legs, legsd, legt, lmu
from longstate.theory.measures import MEASURE_FACTS, parameters

_LEGENDRE = {"legs": legs, "legsd": legsd, "legt": legt, "lmu": lmu}
_FOURIER = {"fourier": (1.0, 1.0, 1.0), "fourier_decay": (1.0, 0.5, 0.5), "fourier2": (2.0, 2.0, 2.0)}


class HippoSystem(NamedTuple):
    """The matrices of x'(t) = A x(t) + B u(t): A (N, N) and B (N,), float64."""

    A: Tensor
    B: Tensor


def hippo(measure: str, d_state: int, *, alpha: float | None = None, beta: float | None = None) -> HippoSystem:
    """The HiPPO system of a measure.

        legs           A[n,k] = -r_n r_k (n > k), -(n+1) (n = k), 0 (n < k);            B[n] = r_n
        legsd          legs + r rᵀ / 2, the normal part of legs;                        B[n] = r_n / 2
        legt           A[n,k] = -r_n r_k / 2 (n >= k), -(-1)^(n-k) r_n r_k / 2 (n < k); B[n] = r_n / 2
        lmu            A[n,k] = (-1)^(n-k+1) (2n+1) (n >= k), -(2n+1) (n < k);          B[n] = (-1)^n (2n+1)
        lagt           A[n,k] = -1 (n > k), -1/2 (n = k), 0 (n < k);                    B[n] = β
        tlagt          A[n,k] = -1 (n > k), -(1+β)/2 (n = k), 0 (n < k);                B[n] = β
        glagt          Λ⁻¹ A Λ with A of tlagt;             B[n] = Λ_n β^((1-α)/2) / (Γ(1+α) √Γ(1-α))
        fourier        A = S - b bᵀ;                                                    B = b
        fourier_decay  A = S - b bᵀ / 2;                                                B = b / 2
        fourier2       A = 2 S - 2 b bᵀ;                                                B = 2 b
        fourier_diag   A = 2 S - I / 2;                                                 B = b

    with r_n = √(2n+1); Λ_n = √(Γ(n+α+1) / Γ(n+1)); b = (1, 0, √2, 0, √2, 0, ...); S antisymmetric, S[2j+1, 2j] = πj.

    What a state remembers of the input at a time τ ago follows from the impulse responses e^{τA} B:

        legs      r_n e^{-τ} P_n(2 e^{-τ} - 1)                       exact, P_n: Legendre
        lagt      β e^{-τ/2} L_n(τ);  tlagt: β e^{-(1+β)τ/2} L_n(τ)  exact, L_n: Laguerre
        glagt     β^((1-α)/2) / √Γ(1-α) e^{-(1+β)τ/2} L_n^(α)(τ) / Λ_n          exact
        legt      r_n P_n(1 - τ) / 2 up to τ = 2, then nothing       as N grows
        lmu       (2n+1) P_n(2τ - 1) up to τ = 1, then nothing       as N grows
        fourier   φ_n(τ) / 2 up to τ = 2, then nothing               as N grows; φ: 1, 0, √2 cos πτ, √2 sin πτ, ...
        fourier2  φ_n(2τ) up to τ = 1, then nothing                  as N grows
        fourier_decay  φ_n(τ) / 3^(1 + ⌊τ/2⌋): all of the past in stretches of 2, one upon the other, as N grows
        fourier_diag   e^{-τ/2} φ_n(2τ): the same in stretches of 1, exact

    legs (in its time-invariant form) and the Laguerre measures forget exponentially. **legt is the halved form** of the
    S4 code, whose window has length 2: the HiPPO paper's own A and B are twice as large and remember a window of length
    1, as lmu does, which is the same memory in other units (lmu's state is √(2n+1) (-1)^n times theirs). A step
    dt = 2 / L fits legt and fourier to a window of L samples, 1 / L fits lmu and fourier2. State 1 of the Fourier
    measures, the sine of frequency 0, is never driven. `MEASURE_FACTS` holds windows, ranks and contractions as data.

    Args:
        measure: "legs", "legsd", "legt", "lmu", "lagt", "tlagt", "glagt", "fourier" ("fout" is the same),
            "fourier_decay", "fourier2" or "fourier_diag" ("foud").
        d_state: Size N of the state; even for the Fourier measures.
        alpha: Of glagt, between -1 and 1 (0 if None). A is a contraction from 0 up.
        beta: Of lagt (1 if None), tlagt (1) and glagt (0.01), positive; tlagt with β = 1 has no tilt.

    Returns:
        A (N, N) and B (N,), float64.

    Raises:
        InputError: If the measure is unknown, the size does not fit, or a parameter does not belong to the measure.

    Source:
        Gu et al. 2020 (arXiv 2008.07669); Gu et al. 2022 (arXiv 2206.12037); lmu: Voelker et al. 2019; glagt: Gu et
        al. 2021 (arXiv 2110.13985).

    Example:
        >>> hippo("legs", 3).A
        tensor([[-1.0000,  0.0000,  0.0000],
                [-1.7321, -2.0000,  0.0000],
                [-2.2361, -3.8730, -3.0000]], dtype=torch.float64)
    """
    measure, alpha, beta = parameters(measure, alpha, beta)
    check_positive(d_state=d_state)
    if MEASURE_FACTS[measure].even and d_state % 2:
        raise InputError(
            f"`d_state` is {d_state}, but the {measure} measure needs an even size, a cosine and a sine for each "
            f"frequency; use {d_state + 1}."
        )
    if measure in _LEGENDRE:
        return HippoSystem(*_LEGENDRE[measure](d_state))
    if measure == "lagt":
        return HippoSystem(*lagt(d_state, beta))
    if measure == "tlagt":
        return HippoSystem(*tlagt(d_state, beta))
    if measure == "glagt":
        return HippoSystem(*glagt(d_state, alpha, beta))
    if measure == "fourier_diag":
        return HippoSystem(*fourier_diag(d_state))
    speed, loss, gain = _FOURIER[measure]
    return HippoSystem(*fourier(d_state, speed=speed, loss=loss, gain=gain))
