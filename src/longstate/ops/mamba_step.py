"""One step of Mamba from projection to projection, in one call."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from longstate.ops import _dispatch, _native
from longstate.ops.causal_conv1d import causal_conv1d_step
from longstate.ops.selective_scan import selective_scan_step
from longstate.ops.step_plan import StepPlan, StepShapes, step_at_once, why_not_plan


class MambaWeights(NamedTuple):
    """What a step of Mamba needs of its parameters, for E channels with N states and vectors r of width R.

    The maps in (2E, d_model), vectors (R + 2N, E), dt (E, R) and out (d_model, E), with their biases; the filter (E, W)
    with its bias; the weights of the norms of r, B and C; A (E, N) and D (E,). `norm_eps` is None without norms.
    """

    into: Tensor
    into_bias: Tensor | None
    filter: Tensor
    filter_bias: Tensor | None
    vectors: Tensor
    norm_r: Tensor | None
    norm_B: Tensor | None
    norm_C: Tensor | None
    dt: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    out: Tensor
    out_bias: Tensor | None
    norm_eps: float | None


def mamba_step(
    x_t: Tensor,
    tail: Tensor,
    state: Tensor,
    weights: MambaWeights,
    *,
    rate: float | Tensor = 1.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """One element through a whole layer of Mamba.

        [x, z] = W_in u;    x' = silu(conv(x));    r, B, C = norms(W_x x');    Δ = rate softplus(W_dt r + b_dt)
        h <- exp(Δ A) h + Δ B x',    y = W_out ((C h + D x') silu(z))

    Args:
        x_t: Input u (batch, d_model).
        tail: The last W - 1 inputs of the convolution (batch, W-1, E), oldest first.
        state: (batch, E, N).
        weights: Of the layer.
        rate: What multiplies the steps: a number, or one a row (batch,).
        backend: "native" (compiled, float32 on a CPU, at most 16 rows, where no gradient is asked for),
            "reference" (one operation after another), or "auto".

    Returns:
        Output (batch, d_model), the new tail and the new state.

    Raises:
        InputError: If the backend cannot run this call.

    Source:
        Gu, Dao: Mamba, arXiv 2312.00752, algorithm 2 and figure 3.
    """
    return _dispatch.run("mamba_step", backend, x_t.device, x_t, tail, state, weights, rate)


def mamba_plan(weights: MambaWeights) -> StepPlan | None:
    """What `step_at_once` needs of the weights, computed once; None where it cannot take them."""
    return None if _why_not_weights(weights) else _plan(weights)


def _why_not(x_t: Tensor, tail: Tensor, state: Tensor, weights: MambaWeights, rate: float | Tensor) -> str | None:
    return _why_not_weights(weights) or _plan(weights).why_not(x_t, tail, state, rate)


def _why_not_weights(weights: MambaWeights) -> str | None:
    E, N, R = *weights.A.shape, weights.dt.shape[-1]
    width, W = weights.into.shape[-1], weights.filter.shape[-1]
    shapes = ((2 * E, width), (2 * E,), (E, W), (E,), (R + 2 * N, E), (R,), (N,), (N,), (E, R), (E,), (E, N), (E,))
    for part, shape in zip(weights[:-1], (*shapes, (width, E), (width,)), strict=True):
        if part is not None and part.shape != shape:
            return "needs weights of shapes that belong together"
    return why_not_plan(weights)


def _mamba_step_native(
    x_t: Tensor, tail: Tensor, state: Tensor, weights: MambaWeights, rate: float | Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    return step_at_once(x_t, tail, state, _plan(weights), rate)


def _plan(weights: MambaWeights) -> StepPlan:
    return StepPlan("longstate_mamba_steps", _arguments, weights)


def _arguments(weights: MambaWeights) -> tuple[_native.MambaStep, StepShapes]:
    """The kernel's arguments, but for those of a call."""
    (E, N), (R, W), width = weights.A.shape, (weights.dt.shape[1], weights.filter.shape[1]), weights.into.shape[1]
    eps = weights.norm_eps
    pointers = {name: _native.pointer(getattr(weights, name)) for name in MambaWeights._fields[:-1]}
    arguments = _native.MambaStep(
        width=width, channels=E, states=N, taps=W, rank=R, norms=eps is not None, eps=eps or 0.0, **pointers
    )
    return arguments, StepShapes(width, (W - 1, E), (E, N))


def mamba_step_reference(
    x_t: Tensor, tail: Tensor, state: Tensor, weights: MambaWeights, rate: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The equations, one operation after another."""
    x, z = F.linear(x_t, weights.into, weights.into_bias).chunk(2, dim=-1)
    x, tail = causal_conv1d_step(x, tail, weights.filter, weights.filter_bias, activation="silu")
    N, R = weights.A.shape[1], weights.dt.shape[1]
    vectors = F.linear(x, weights.vectors).split((R, N, N), dim=-1)
    if weights.norm_eps is not None:
        norms = weights.norm_r, weights.norm_B, weights.norm_C
        vectors = [
            F.rms_norm(part, part.shape[-1:], norm, weights.norm_eps) for part, norm in zip(vectors, norms, strict=True)
        ]
    r, B, C = vectors
    steps = F.softplus(F.linear(r, weights.dt) + weights.dt_bias)
    steps = steps * (rate[:, None] if isinstance(rate, Tensor) else rate)
    y, state = selective_scan_step(x, steps, weights.A, B, C, weights.D, state, z_t=z)
    return F.linear(y, weights.out, weights.out_bias), tail, state


_dispatch.register(
    "mamba_step",
    _dispatch.Backend("native", _mamba_step_native, _why_not),
    _dispatch.Backend("reference", mamba_step_reference, _dispatch.always),
)
