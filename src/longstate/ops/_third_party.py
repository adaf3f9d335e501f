"""The only door to other people's kernels: mamba_ssm and causal_conv1d on a GPU, used when they are installed.

Their limits are their own, so each adapter says in `why_not` what it cannot take. Nothing is imported before a call
that can use it. A kernel that ignores the gradient of its final state gets one that says so, instead of being silently
wrong.
"""

import functools
import importlib
import importlib.util
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, zero_padding
from longstate.ops.fir_tail import next_tail

_LARGEST_STATE = 256  # of mamba_ssm's selective scan


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@torch.compiler.assume_constant_result
def _is_installed(package: str) -> bool:
    return _installed(package)


def _why_not_here(package: str, x: Tensor) -> str | None:
    if x.device.type != "cuda":
        return f"needs tensors on cuda, got {x.device.type}"
    if not _is_installed(package):
        return f"`{package}` is not installed (pip install {package.replace('_', '-')})"
    if x.dtype is torch.float64:
        return "computes in float32 at most, got float64"
    return None


def why_not_selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> str | None:
    """Why mamba_ssm's selective scan cannot take this call, or None."""
    if state is not None:
        return "starts from rest only, got a state"
    if starts is not None:
        return "knows no packed sequences, got `starts`"
    if A.is_complex() or A.shape[1] > _LARGEST_STATE:
        return f"needs a real A with at most {_LARGEST_STATE} states, got {A.dtype} with {A.shape[1]}"
    return _why_not_here("mamba_ssm", u)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`ops.selective_scan` by mamba_ssm's kernel, whose axes are (batch, channels, length)."""
    kernel = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    u = zero_padding(u, lengths)
    if lengths is not None:
        # Only a step that is 0 after softplus lets the state stand still.
        dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
        dt = zero_padding(F.softplus(dt) if dt_softplus else dt, lengths).to(u.dtype)
        B, C = (part if part.dim() == 2 else zero_padding(part.flatten(2), lengths).view_as(part) for part in (B, C))
        dt_bias, dt_softplus = None, False
    vectors = [part if part.dim() == 2 else part.movedim(1, -1).contiguous() for part in (B, C)]
    y, final = kernel(
        u.mT.contiguous(),
        dt.mT.contiguous(),
        A.float(),
        *vectors,
        D=None if D is None else D.float(),
        z=None if z is None else zero_padding(z, lengths).mT.contiguous(),
        delta_bias=None if dt_bias is None else dt_bias.float(),
        delta_softplus=dt_softplus,
        return_last_state=True,
    )
    return y.mT, _NoGradient.apply(final, "mamba_ssm's selective scan")


def why_not_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float],
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    block: int,
) -> str | None:
    """Why mamba_ssm's chunked scan cannot take this call, or None."""
    if starts is not None:
        return "packed sequences beside a state are not its contract, got `starts`"
    return _why_not_here("mamba_ssm", x)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float],
    state: Tensor | None,
    lengths: Tensor | None,
    starts: Tensor | None,
    block: int,
) -> tuple[Tensor, Tensor]:
    """`ops.ssd` by mamba_ssm's chunked scan; initial and final states carry gradients there."""
    kernel = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    if lengths is not None:
        dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
        dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
        dt, dt_bias, dt_softplus, dt_limit = zero_padding(dt, lengths), None, False, (0.0, math.inf)
        x, B, C = (zero_padding(part.flatten(2), lengths).view_as(part) for part in (x, B, C))
    y, final = kernel(
        x,
        dt,
        A.float(),
        B,
        C,
        chunk_size=256,
        D=D,
        dt_bias=dt_bias,
        initial_states=state,
        dt_softplus=dt_softplus,
        dt_limit=dt_limit,
        return_final_states=True,
    )
    return y, final.float()


def why_not_causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    activation: str | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> str | None:
    """Why the causal_conv1d package cannot take this call, or None."""
    if starts is not None:
        return "packed sequences beside a tail are not its contract, got `starts`"
    if not 2 <= weight.shape[1] <= 4:
        return f"has kernels of 2 to 4 taps, got {weight.shape[1]}"
    return _why_not_here("causal_conv1d", x)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    activation: str | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`ops.causal_conv1d` by the package of that name: the tail stands before the input and is cut off again."""
    kernel = importlib.import_module("causal_conv1d").causal_conv1d_fn
    inside = zero_padding(x, lengths)
    window = torch.cat([tail.to(inside.dtype), inside], dim=1).mT.contiguous()
    y = kernel(window, weight.to(inside.dtype), None if bias is None else bias.to(inside.dtype), activation=activation)
    return y.mT[:, weight.shape[1] - 1 :], next_tail(tail, x, lengths, starts)


class _NoGradient(torch.autograd.Function):
    """A tensor whose gradient nobody computed: asking for it is an error, not a zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: str) -> Tensor:
        ctx.owner = owner
        ctx.set_materialize_grads(False)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[None, None]:
        if grad_outputs[0] is not None:
            raise InputError(
                f"a gradient came to the final state of {ctx.owner}, which computes none, but training through states "
                "needs it; name backend='torch'."
            )
        return None, None
