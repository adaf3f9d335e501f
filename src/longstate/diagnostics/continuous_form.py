"""The continuous systems that layers discretise, read from their parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longstate import theory
from longstate.layers import DSS, LSSL, S4, S4D, LTILayer


class ContinuousForm(NamedTuple):
    """x' = A x + B u, y = C x of one feature with time in samples: real A (N, N), B (N,), C (channels, N), float64."""

    A: Tensor
    B: Tensor
    C: Tensor


def continuous_form(layer: LTILayer, feature: int) -> ContinuousForm | None:
    """The continuous system of one feature of a layer.

    Args:
        layer: Any LTI layer.
        feature: Which.

    Returns:
        The system; None for a layer that is discrete from the beginning (EMA) or whose B depends on a length (the
        softmax form of DSS).

    Example:
        >>> from longstate import S4
        >>> from longstate.diagnostics.continuous_form import continuous_form
        >>> continuous_form(S4(4, 8), 0).A.shape
        torch.Size([8, 8])
    """
    form = next((form for kind, form in _FORMS.items() if isinstance(layer, kind)), None)
    return None if form is None else form(layer, feature)


def real_form(A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A diagonal system with y = Re(C x) over the real state [Re x, Im x]: A (N,), B (N, inputs), C (outputs, N)."""
    if not A.is_complex():
        return torch.diag(A), B, C
    re, im = torch.diag(A.real), torch.diag(A.imag)
    return (
        torch.cat([torch.cat([re, -im], 1), torch.cat([im, re], 1)]),
        torch.cat([B.real, B.imag]),
        torch.cat([C.real, -C.imag], 1),
    )


def _s4_form(layer: S4, at: int) -> ContinuousForm:
    row = at % len(layer.A_real)
    A = torch.complex(-layer.A_real[row].double().exp(), layer.A_imag[row].double())
    P, B, C = (
        torch.view_as_complex(part.double().contiguous()) for part in (layer.P[:, row], layer.B[row], layer.C[:, at])
    )
    form = theory.real_form(A, P, B, C)
    dt = layer.log_dt[at].double().exp()
    return ContinuousForm(dt * form.A, _driven(form.B, dt, layer.rule), form.C)


def _s4d_form(layer: S4D, at: int) -> ContinuousForm:
    row = at % len(layer.A_real)
    dt = layer.log_dt[at].double().exp()
    A, B, C = -layer.A_real[row].double().exp(), layer.B[row].double(), layer.C[:, at].double()
    if layer.A_imag is None:
        return ContinuousForm(dt * torch.diag(A), _driven(B, dt, layer.rule), C)
    A = torch.complex(A, layer.A_imag[row].double())
    B, C = torch.view_as_complex(B.contiguous()), torch.view_as_complex(C.contiguous())
    form = theory.real_form(A, B.new_zeros(0, len(B)), B, C)
    return ContinuousForm(dt * form.A, _driven(form.B, dt, layer.rule), form.C)


def _lssl_form(layer: LSSL, at: int) -> ContinuousForm:
    row = at % len(layer.A)
    dt = layer.log_dt[at].double().exp()
    B, C = layer.B[row].double(), layer.C[:, at].double()
    return ContinuousForm(dt * layer.A[row].double(), _driven(B, dt, layer.rule), C)


def _dss_form(layer: DSS, at: int) -> ContinuousForm | None:
    if layer.form != "exp":
        return None
    row = at % len(layer.A_real)
    dt = layer.log_dt[at].double().exp().reshape(-1)
    A = torch.complex(-layer.A_real[row].double().exp(), layer.A_imag[row].double())
    z = torch.complex(dt[0] * A.real, dt[-1] * A.imag)
    A, B, C = real_form(z, (z / A)[:, None], torch.view_as_complex(layer.C[:, at].double().contiguous()))
    return ContinuousForm(A, B[:, 0], C)


def _driven(B: Tensor, dt: Tensor, rule: str) -> Tensor:
    """B with time in samples: an impulse (dirac) has no duration to be measured in."""
    return B if rule == "dirac" else dt * B


_FORMS: dict[type[LTILayer], Callable[[Any, int], ContinuousForm | None]] = {
    S4: _s4_form,
    S4D: _s4d_form,
    LSSL: _lssl_form,
    DSS: _dss_form,
}
