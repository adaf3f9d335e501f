"""One step of Mamba-2 from projection to projection, in one call."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from longstate.ops import _dispatch, _native
from longstate.ops.causal_conv1d import causal_conv1d_step
from longstate.ops.ssd import ssd_step
from longstate.ops.step_plan import StepPlan, StepShapes, step_at_once, why_not_plan

_GATES = ("none", "gate_first", "norm_first")  # Gate of longstate.h


class Mamba2Weights(NamedTuple):
    """What a step of Mamba-2 needs of its parameters, for H heads, E channels and G groups of N states.

    The maps in (2E + 2GN + H, d_model) and out (d_model, E), with their biases; the filter (E + 2GN, W) with its bias;
    the bias of the steps (H,), A (H,), D (H,) or (E,); the weight of the norm (E,), None with the gate "none"; the
    limits of the steps; the gate, "gate_first" (norm(y silu(z))), "norm_first" (norm(y) silu(z)) or "none" (y silu(z)).
    """

    into: Tensor
    into_bias: Tensor | None
    filter: Tensor
    filter_bias: Tensor | None
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    norm_y: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    groups: int
    dt_limit: tuple[float, float]
    gate: str
    norm_eps: float


def mamba2_step(
    x_t: Tensor,
    tail: Tensor,
    state: Tensor,
    weights: Mamba2Weights,
    *,
    rate: float | Tensor = 1.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """One element through a whole layer of Mamba-2.

        [z, x, B, C, d] = W_in u;    [x, B, C] = silu(conv([x, B, C]));    Δ = rate clamp(softplus(d + b))
        S <- exp(Δ A) S + Δ x ⊗ B,    y = W_out norm((S C + D x) silu(z))

    Args:
        x_t: Input u (batch, d_model).
        tail: The last W - 1 inputs of the convolution (batch, W-1, E + 2GN), oldest first.
        state: (batch, H, E/H, N).
        weights: Of the layer.
        rate: What multiplies the steps: a number, or one a row (batch,).
        backend: "native" (compiled, float32 on a CPU, at most 16 rows, where no gradient is asked for),
            "reference" (one operation after another), or "auto".

    Returns:
        Output (batch, d_model), the new tail and the new state.

    Raises:
        InputError: If the backend cannot run this call.

    Source:
        Dao, Gu: Transformers are SSMs, arXiv 2405.21060, section 7 and figure 6.
    """
    return _dispatch.run("mamba2_step", backend, x_t.device, x_t, tail, state, weights, rate)


def mamba2_plan(weights: Mamba2Weights) -> StepPlan | None:
    """What `step_at_once` needs of the weights, computed once; None where it cannot take them."""
    return None if _why_not_weights(weights) else _plan(weights)


def _sizes(weights: Mamba2Weights) -> tuple[int, int, int, int]:
    """H, E, G and N."""
    E, G = weights.out.shape[-1], weights.groups
    return len(weights.A), E, G, (len(weights.filter) - E) // (2 * G)


def _why_not(x_t: Tensor, tail: Tensor, state: Tensor, weights: Mamba2Weights, rate: float | Tensor) -> str | None:
    return _why_not_weights(weights) or _plan(weights).why_not(x_t, tail, state, rate)


def _why_not_weights(weights: Mamba2Weights) -> str | None:
    H, E, G, N = _sizes(weights)
    width, W, filtered = weights.into.shape[-1], weights.filter.shape[-1], E + 2 * G * N
    entering, skips = E + filtered + H, (E if len(weights.D) == E else H,)
    shapes = ((entering, width), (entering,), (filtered, W), (filtered,), (H,), (H,), skips, (E,), (width, E), (width,))
    if H % G or E % H or N < 1 or (weights.norm_y is None) is not (weights.gate == "none"):
        return "needs weights of shapes that belong together"
    for part, shape in zip(weights[:10], shapes, strict=True):
        if part is not None and part.shape != shape:
            return "needs weights of shapes that belong together"
    return why_not_plan(weights)


def _mamba2_step_native(
    x_t: Tensor, tail: Tensor, state: Tensor, weights: Mamba2Weights, rate: float | Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    return step_at_once(x_t, tail, state, _plan(weights), rate)


def _plan(weights: Mamba2Weights) -> StepPlan:
    return StepPlan("longstate_mamba2_steps", _arguments, weights)


def _arguments(weights: Mamba2Weights) -> tuple[_native.Mamba2Step, StepShapes]:
    """The kernel's arguments, but for those of a call."""
    (H, E, G, N), (filtered, W), width = _sizes(weights), weights.filter.shape, weights.into.shape[1]
    floor, ceiling = weights.dt_limit
    arguments = _native.Mamba2Step(
        width=width,
        heads=H,
        head_width=E // H,
        states=N,
        groups=G,
        taps=W,
        gate=_GATES.index(weights.gate),
        D_each=len(weights.D) != H,
        eps=weights.norm_eps,
        floor=floor,
        ceiling=ceiling,
        **{name: _native.pointer(getattr(weights, name)) for name in Mamba2Weights._fields[:10]},
    )
    return arguments, StepShapes(width, (W - 1, filtered), (H, E // H, N))


def mamba2_step_reference(
    x_t: Tensor, tail: Tensor, state: Tensor, weights: Mamba2Weights, rate: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The equations, one operation after another."""
    H, E, G, N = _sizes(weights)
    z, inner, dt = F.linear(x_t, weights.into, weights.into_bias).split((E, E + 2 * G * N, H), dim=-1)
    inner, tail = causal_conv1d_step(inner, tail, weights.filter, weights.filter_bias, activation="silu")
    x, B, C = inner.split((E, G * N, G * N), dim=-1)
    steps = F.softplus(dt + weights.dt_bias).clamp(*weights.dt_limit)
    steps = steps * (rate[:, None] if isinstance(rate, Tensor) else rate)
    D = weights.D if len(weights.D) == H else weights.D.view(H, -1)
    B, C = B.unflatten(-1, (G, N)), C.unflatten(-1, (G, N))
    y, state = ssd_step(x.unflatten(-1, (H, -1)), steps, weights.A, B, C, D, state)
    y = y.flatten(1)
    if weights.gate != "norm_first":
        y = y * F.silu(z)
    if weights.norm_y is not None:
        y = F.rms_norm(y.unflatten(-1, (G, -1)), (E // G,), None, weights.norm_eps).flatten(1) * weights.norm_y
    if weights.gate == "norm_first":
        y = y * F.silu(z)
    return F.linear(y, weights.out, weights.out_bias), tail, state


_dispatch.register(
    "mamba2_step",
    _dispatch.Backend("native", _mamba2_step_native, _why_not),
    _dispatch.Backend("reference", mamba2_step_reference, _dispatch.always),
)
