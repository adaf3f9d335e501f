"""A time-invariant layer as a filter: its frequency response, its poles, and how long it remembers."""

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import InputError, check_fixed_rate, check_no_rate
from longstate.layers import LTILayer, MIMOLayer

Filter: TypeAlias = LTILayer | MIMOLayer
"""A layer with one linear system a feature, or one for all features."""


_REACHED = 1e-9  # of B: what rounding leaves


class TimeConstants(NamedTuple):
    """How long each mode takes to fall to 1/e of itself: in samples, and in seconds at the sampling rate given."""

    samples: Tensor
    seconds: Tensor


def frequency_response(
    layer: Filter, frequencies: Tensor, *, sampling_rate: float = 1.0, rate: float | None = None
) -> Tensor:
    """What the linear part of a layer does to a sine of each frequency.

        H(f) = C (I - A e^{-iω})^-1 B + D,    ω = 2π f / sampling_rate

    A sine that has gone on for long comes out |H| times as large and shifted by the angle of H. What comes after the
    system, activation and output map, is not linear and not in it.

    Args:
        layer: An LTI layer (S4, S4D, LSSL, DSS, EMA) or one with a system for all features (S5, LRU).
        frequencies: (F,) in the unit of `sampling_rate`: Hz, or cycles a sample if that is 1.
        sampling_rate: Samples a second of the sequences.
        rate: As of `layer.forward`: 2.0 for sequences sampled at half the rate of training.

    Returns:
        Complex128: (channels, d_model, F), or (d_model, d_model, F) from the second axis to the first for one system.

    Raises:
        InputError: If the layer has no fixed linear system, or an argument is not usable.

    Example:
        >>> import torch
        >>> from longstate import EMA
        >>> from longstate.diagnostics import frequency_response
        >>> frequency_response(EMA(4, 2), torch.tensor([0.0, 5.0, 10.0]), sampling_rate=20.0).shape
        torch.Size([1, 4, 3])
    """
    check_sampling_rate(sampling_rate)
    if frequencies.dim() != 1 or frequencies.is_complex():
        raise InputError(
            f"`frequencies` is {frequencies.dtype} of shape {tuple(frequencies.shape)}, but real numbers (F,) are "
            "needed; pass `torch.linspace(0, sampling_rate / 2, 500)`."
        )
    device = next(layer.parameters()).device
    delay = torch.exp(-2j * math.pi * frequencies.double().to(device) / sampling_rate)
    with torch.no_grad():
        if isinstance(layer, MIMOLayer):
            return _mimo_response(mimo_system(layer, rate), delay)
        system = linear_system(layer, rate)
        response = _dense_response(system, delay) if system.is_dense else _diagonal_response(system, delay)
        return response + system.D[..., None]


def poles(layer: Filter, *, rate: float | None = None) -> Tensor:
    """The eigenvalues of the discrete state matrix: what each mode is multiplied by at every sample.

    Inside the unit circle a mode fades; its angle is the frequency it turns at. Both members of conjugate pairs are
    given. **Of S4 at the HiPPO measures they say little**: that matrix is so far from normal that the rounding of its
    parameters to float32 moves all but the slowest pole (at N = 64, LegS, dt = 0.01, in float32: the slowest time
    constant by 1e-6, the third by 11 %, the fifth by 66 %). Its frequency response has no such trouble.

    Args:
        layer: An LTI layer, or one with a system for all features.
        rate: As of `layer.forward`.

    Returns:
        Complex128 (d_model, N) (both halves where the layer stores one), or (N,) for one system.

    Raises:
        InputError: If the layer has no fixed linear system.

    Example:
        >>> import torch
        >>> from longstate import S4D
        >>> from longstate.diagnostics import poles
        >>> (poles(S4D(4, 16)).abs() < 1).all()
        tensor(True)
    """
    with torch.no_grad():
        A = mimo_system(layer, rate).A if isinstance(layer, MIMOLayer) else linear_system(layer, rate).A
        if A.dim() == 3:
            return torch.linalg.eigvals(A)
        if not A.is_complex():
            return A.to(torch.complex128)
        return torch.cat([A, A.conj()], dim=-1).resolve_conj()


def time_constants(layer: Filter, *, sampling_rate: float = 1.0, rate: float | None = None) -> TimeConstants:
    """How long the modes of a layer remember: -1 / ln |pole| samples.

    Args:
        layer: An LTI layer, or one with a system for all features.
        sampling_rate: Samples a second of the sequences.
        rate: As of `layer.forward`.

    Returns:
        In samples and in seconds, in the order of `poles`; 0 for a mode that forgets at once, inf for one that never
        does (or that grows).

    Raises:
        InputError: If the layer has no fixed linear system, or `sampling_rate` is not positive.

    Example:
        >>> from longstate import S4D
        >>> from longstate.diagnostics import time_constants
        >>> layer = S4D(4, 16, dt_min=0.01, dt_max=0.01)  # A = -1/2 + ..., so 2 / dt samples
        >>> round(float(time_constants(layer, sampling_rate=50.0).seconds.max()), 2)
        4.0
    """
    check_sampling_rate(sampling_rate)
    decay = -poles(layer, rate=rate).abs().log()
    samples = torch.where(decay > 0, 1 / decay.clamp(min=torch.finfo(decay.dtype).tiny), math.inf)
    return TimeConstants(samples, samples / sampling_rate)


def linear_system(layer: nn.Module, rate: float | None) -> ops.LTISystem:
    """The discrete system of an LTI layer at a rate.

    Raises:
        InputError: If it is no such layer, or `rate` is not usable.
    """
    if not isinstance(layer, LTILayer):
        raise InputError(
            f"`layer` is a {type(layer).__name__}, but one with a fixed linear system is needed (S4, S4D, LSSL, DSS, "
            "EMA, S5 or LRU); of a composite, pass the layer inside (`residual.layer`, `gss.ssm`)."
        )
    if not layer.has_time_scale:
        check_no_rate(rate, layer=layer.layer_name)
    return layer.system(check_fixed_rate(rate, layer=layer.layer_name))


def mimo_system(layer: MIMOLayer, rate: float | None) -> ops.MIMOSystem:
    """The discrete system of a layer with one for all features."""
    return layer.system(check_fixed_rate(rate, layer=layer.layer_name))


def check_sampling_rate(sampling_rate: float) -> None:
    """Raise unless it is a positive number."""
    if not 0 < sampling_rate < math.inf:
        raise InputError(
            f"`sampling_rate` is {sampling_rate}, but a positive number in Hz is needed; 1.0 counts in samples."
        )


def _diagonal_response(system: ops.LTISystem, delay: Tensor) -> Tensor:
    A, B, C, _ = system
    gain = C * B
    if not A.is_complex():
        return torch.einsum("chn,hnf->chf", gain.to(delay.dtype), 1 / (1 - A[..., None] * delay))
    # The real part of the output: half of the mode and half of its conjugate.
    own = torch.einsum("chn,hnf->chf", gain, 1 / (1 - A[..., None] * delay))
    other = torch.einsum("chn,hnf->chf", gain.conj(), 1 / (1 - A.conj()[..., None] * delay))
    return (own + other) / 2


def _dense_response(system: ops.LTISystem, delay: Tensor) -> Tensor:
    """One feature after the other, for all frequencies at once."""
    eye = torch.eye(system.A.shape[-1], dtype=delay.dtype, device=delay.device)
    rows = []
    for A, B, C in zip(system.A, system.B, system.C.transpose(0, 1), strict=True):
        rows.append(C.to(delay.dtype) @ _states(eye - delay[:, None, None] * A, B.to(delay.dtype)).mT)
    return torch.stack(rows, dim=1)


def _states(matrices: Tensor, B: Tensor) -> Tensor:
    """M^-1 B of every M (F, N, N). Where M is singular, at a pole: inf, or the limit if B does not reach that pole."""
    states, info = torch.linalg.solve_ex(matrices, B.expand(len(matrices), -1))
    for at in info.nonzero().flatten().tolist():
        nearest = torch.linalg.pinv(matrices[at]) @ B
        is_reached = (matrices[at] @ nearest - B).norm() > _REACHED * B.norm()
        states[at] = torch.full_like(B, math.inf) if bool(is_reached) else nearest
    return states


def _mimo_response(system: ops.MIMOSystem, delay: Tensor) -> Tensor:
    A, gain, B, C, D = system
    own = torch.einsum("op,pf,pi->oif", C, gain[:, None] / (1 - A[:, None] * delay), B)
    conj = [part.conj() for part in (A, gain, B, C)]
    other = torch.einsum("op,pf,pi->oif", conj[3], conj[1][:, None] / (1 - conj[0][:, None] * delay), conj[2])
    return (own + other) / 2 + torch.diag_embed(D)[..., None]
