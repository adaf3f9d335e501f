"""The only door to other people's kernels: mamba_ssm, causal_conv1d and fla on a GPU, used when they are installed.

Their limits are their own, so each adapter says in `why_not` what it cannot take. Nothing is imported before a call
that can use it. A kernel that ignores the gradient of its final state gets one that says so, instead of being silently
wrong.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, valid_steps, zero_padding
from longstate.ops.fir_tail import next_tail

_LARGEST_STATE = 256  # of mamba_ssm's selective scan
_DISTRIBUTIONS = {"fla": "flash-linear-attention", "mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d"}


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@torch.compiler.assume_constant_result
def _is_installed(package: str) -> bool:
    return _installed(package)


@functools.cache
def _fla_has_heads_first() -> bool:
    """Whether fla is older than 0.2, which took (batch, heads, length) where later ones take (batch, length, heads)."""
    try:
        version = importlib.metadata.version(_DISTRIBUTIONS["fla"])
    except importlib.metadata.PackageNotFoundError:  # `fla-core` alone, which began at 0.3.2
        return False
    return version.split(".")[:2] == ["0", "1"]


def _why_not_here(package: str, x: Tensor) -> str | None:
    if x.device.type != "cuda":
        return f"needs tensors on cuda, got {x.device.type}"
    if not _is_installed(package):
        return f"`{package}` is not installed (pip install {_DISTRIBUTIONS[package]})"
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
        dt = _steps(dt, dt_bias, dt_softplus, (-math.inf, math.inf), lengths).to(u.dtype)
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
        dt = _steps(dt, dt_bias, dt_softplus, dt_limit, lengths)
        dt_bias, dt_softplus, dt_limit = None, False, (0.0, math.inf)
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


def why_not_ssd_by_fla(
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
    """Why fla's gated linear attention cannot take this call, or None."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        return f"multiplies bfloat16 or float16 exactly, and anything wider in TF32, got {x.dtype}"
    if x.shape[1] < x.shape[2]:
        return f"takes sequences no shorter than the number of heads, got {x.shape[1]} elements and {x.shape[2]} heads"
    if x.shape[3] % 2 or B.shape[3] % 2:
        return f"needs an even number of channels and of states, got {x.shape[3]} and {B.shape[3]}"
    if torch.compiler.is_compiling():
        return "is left out of torch.compile by its authors"
    reason = _why_not_here("fla", x)
    if reason is None and _fla_has_heads_first():
        return "takes (batch, length, heads) since 0.2, and an older one is installed"
    return reason


def ssd_by_fla(
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
    """`ops.ssd` by fla: queries C, keys B, values Δ x, logarithms of the decay Δ A, and states (keys, values)."""
    kernel = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    batch, length, heads = x.shape[:3]
    dt = _steps(dt, dt_bias, dt_softplus, dt_limit, lengths)
    x, B, C = (zero_padding(part.flatten(2), lengths).view_as(part) for part in (x, B, C))
    k, q = (part.to(x.dtype).repeat_interleave(heads // part.shape[2], dim=2) for part in (B, C))
    v, g = (dt[..., None] * x).to(x.dtype), dt * A.float()
    first = None if state is None else state.float().mT.contiguous()
    if starts is None:
        y, final = kernel(q, k, v, g=g, scale=1.0, initial_state=first, output_final_state=True)
    else:
        begins, ends = _sequences(starts, lengths)
        sequences = torch.cat(
            [begins.flatten().nonzero()[:, 0], begins.new_tensor([batch * length], dtype=torch.int64)]
        )
        begun = x.new_zeros(len(sequences) - 1, heads, B.shape[3], x.shape[3], dtype=torch.float32)
        if first is not None:
            goes_on = ~(starts[:, 0] if lengths is None else starts[:, 0] & (lengths > 0))
            begun = begun.index_put((ends[:-1],), torch.where(goes_on[:, None, None, None], first, 0.0))
        rows = [part.flatten(0, 1)[None] for part in (q, k, v, g)]
        y, final = kernel(
            *rows[:3], g=rows[3], scale=1.0, initial_state=begun, output_final_state=True, cu_seqlens=sequences
        )
        y, final = y.view(batch, length, heads, -1), final[ends[1:] - 1]
    if D is not None:
        y = (y + (D if D.dim() == 2 else D[:, None]).float() * x).to(x.dtype)
    return y, final.float().mT


def _steps(
    dt: Tensor, bias: Tensor | None, softplus: bool, limit: tuple[float, float], lengths: Tensor | None
) -> Tensor:
    """Steps after bias, softplus and limits, 0 in the padding, where the state thus stands still."""
    # Before the softplus as well: a NaN in the padding would come back in the gradient.
    dt = zero_padding(dt.float(), lengths)
    dt = dt if bias is None else dt + bias.float()
    return zero_padding((F.softplus(dt) if softplus else dt).clamp(*limit), lengths)


def _sequences(starts: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where sequences begin (batch, length), every row with one, and how many there are before each row and in all."""
    begins = starts if lengths is None else starts & valid_steps(lengths, starts.shape[1])
    begins = torch.cat([torch.ones_like(begins[:, :1]), begins[:, 1:]], dim=1)
    return begins, F.pad(begins.sum(1).cumsum(0), (1, 0))


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
