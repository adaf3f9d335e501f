"""What the coefficients of a HiPPO memory say about the past."""

import torch
from torch import Tensor

from longstate._checks import InputError, check_choice
from longstate.theory.fourier import waves
from longstate.theory.laguerre import gain, laguerre
from longstate.theory.laguerre import norms as laguerre_norms
from longstate.theory.legendre import legendre, norms
from longstate.theory.measures import MEASURE_FACTS, MEASURES, parameters


def reconstruct(
    coefficients: Tensor,
    lags: Tensor,
    *,
    measure: str,
    window: float | None = None,
    steps: Tensor | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> Tensor:
    """The signal that the coefficients of a memory stand for, at elements of the past.

    With τ the time since an element, in units of the measure:

        legs (all of the past)   u ≈ Σ x_n r_n P_n(1 - 2τ),      τ in shares of the `steps` elements so far
        legs (with a window)     u ≈ Σ x_n r_n P_n(2e^{-τ} - 1)
        legt                     u ≈ Σ x_n r_n P_n(1 - τ)        τ up to 2
        lmu                      u ≈ Σ x_n P_n(2τ - 1)           τ up to 1
        lagt                     u ≈ e^{-τ/2} Σ x_n L_n(τ) / β
        tlagt                    u ≈ e^{-(1-β)τ/2} Σ x_n L_n(τ) / β
        glagt                    u ≈ √Γ(1-α) β^{(α-1)/2} τ^α e^{-(1-β)τ/2} Σ x_n L_n^(α)(τ) / Λ_n
        fourier                  u ≈ Σ x_n φ_n(τ)                τ up to 2
        fourier2                 u ≈ Σ x_n φ_n(2τ)               τ up to 1

    r, P, L, Λ and φ are those of `hippo`. The window of legt, lmu and the Fourier measures is `window` elements long;
    for the measures that fade, `window` elements are one unit of time. An element is held for one step and read in its
    middle: the newest has the lag 0 and lies half a step back. Before the first element there was nothing, which is 0.

    Args:
        coefficients: (..., N), those of `hippo` in size and units.
        lags: Elements back from the newest (P,), of at least 0; they need not be integers.
        measure: "legs", "legt", "lmu", "lagt", "tlagt", "glagt", "fourier" ("fout") or "fourier2".
        window: In elements; None for legs over all of the past.
        steps: How many elements the coefficients have seen, broadcast against their leading axes; for legs without a
            window only.
        alpha: As in `hippo`.
        beta: As in `hippo`.

    Returns:
        The signal (..., P), in the type of `coefficients`.

    Raises:
        InputError: If the measure keeps no past that can be read, `window` or `steps` is missing, or a lag lies outside
            the window.

    Source:
        Gu et al. 2020 (arXiv 2008.07669), section 2; Gu et al. 2022 (arXiv 2206.12037).

    Example:
        >>> coefficients = torch.tensor([3.0, 1.0]).double()  # a straight line over all of the past
        >>> reconstruct(coefficients, torch.tensor([0, 1, 2, 3]), measure="legs", steps=torch.tensor(4))
        tensor([4.2990, 3.4330, 2.5670, 1.7010], dtype=torch.float64)
    """
    name, (measure, alpha, beta) = measure, parameters(measure, alpha, beta)
    order, facts = coefficients.shape[-1], MEASURE_FACTS[measure]
    check_reconstructs(name)
    check_window(name, window)
    back = lags.to(torch.float64) + 0.5
    if bool((lags < 0).any()):
        raise InputError(f"`lags` holds {float(lags.min()):g}, but lags of at least 0 are needed; 0 is the newest.")
    if window is None:
        if steps is None:
            raise InputError(
                "`steps` is None without a `window`, but a lag has its place among all elements so far; "
                "give their number, such as `state.steps[:, None]`."
            )
        share = back / steps[..., None].clamp(min=1)
        basis = norms(order, device=back.device)[:, None] * legendre(1 - 2 * share.clamp(max=1), order).movedim(0, -2)
        values = (coefficients[..., None] * basis).sum(-2)
        return torch.where(share <= 1, values, 0.0).to(coefficients.dtype)
    if facts.window is not None and bool((back > window).any()):
        raise InputError(
            f"`lags` holds {float(lags.max()):g}, but a window of {window:g} elements ends at lag {window - 0.5:g}; "
            "ask for less, or use a longer window."
        )
    time = back * ((facts.window or 1.0) / window)
    return (coefficients.to(torch.float64) @ _basis(measure, time, order, alpha, beta)).to(coefficients.dtype)


def check_reconstructs(measure: str) -> None:
    """Raise unless the past can be read from a memory with this measure."""
    check_choice(measure, MEASURES, name="measure")
    if not MEASURE_FACTS[measure].reconstructs:
        raise InputError(
            f"`measure` is {measure!r}, but it lays stretches of the past upon each other, so that none can be read; "
            "use legs, legt, lagt or fourier."
        )


def check_window(measure: str, window: float | None) -> None:
    """Raise unless `window` is a positive number of elements, or None for legs."""
    if window is None and measure != "legs":
        raise InputError(
            f"`window` is None with measure {measure!r}, but only legs remembers all of the past; "
            "give the number of elements to look back."
        )
    if window is not None and not window > 0:
        raise InputError(
            f"`window` is {window}, but a positive number of elements is needed; give one, or leave it out."
        )


def _basis(measure: str, time: Tensor, order: int, alpha: float, beta: float) -> Tensor:
    """The functions (N, P) that the coefficients of a time-invariant memory multiply."""
    if measure in ("fourier", "fourier2"):
        return waves(time if measure == "fourier" else 2 * time, order)
    if measure == "lmu":
        return legendre(2 * time - 1, order)
    if measure in ("legs", "legt"):
        place = 1 - time if measure == "legt" else 2 * torch.exp(-time) - 1
        return norms(order, device=time.device)[:, None] * legendre(place, order)
    functions = laguerre(time, order, alpha)
    if measure == "lagt":
        return functions / beta
    functions = functions * torch.exp(0.5 * beta * time)
    if measure == "tlagt":
        return functions / beta
    unit = gain(alpha, beta) * laguerre_norms(alpha, order).to(time.device)[:, None]
    return time**alpha * functions / unit
