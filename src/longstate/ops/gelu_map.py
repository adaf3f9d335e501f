"""What stands after a sequence operator: GELU, a linear map and a gate, by pieces of rows that stay in the cache.

Taken one after the other, the four operations stream eight arrays of the length of the sequence through memory, forth
and back, and keep five of them. A piece of some thousand rows goes through all of them in the cache instead. What is
kept is y, the gate s and the result, for with out = a s the derivative by the gate's argument is

    dout a s (1 - s) = dout out (1 - s),

so that the backward pass has to compute only the GELU again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, check_choice
from longstate.ops import _dispatch, gelu_map_native
from longstate.ops.gelu_map_native import KINDS

_GELUS = ("none", "tanh")

_ELEMENTS, _LEAST, _MOST = 1 << 18, 512, 4096
"""Numbers of y in a piece, and the bounds of its rows: smaller ones waste matrix products, larger ones the cache."""


def gelu_map(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str = "glu",
    approximate: str = "none",
    backend: str = "auto",
) -> Tensor:
    """GELU, a linear map, and a gate, element by element of a sequence.

        g = gelu(y),    (a, b) = W g + c

        glu          a * sigmoid(b)
        half_glu1    g * sigmoid(W g + c)
        half_glu2    y * sigmoid(W g + c)
        linear       W g + c

    Args:
        y: Input (..., features).
        weight: W (2 outputs, features) for "glu", (features, features) for the half gates, (outputs, features) for
            "linear".
        bias: c, as long as `weight`, or None.
        kind: One of the four names.
        approximate: "none" for the exact GELU, "tanh" for the approximation that JAX uses.
        backend: "native" (compiled, float32 on a CPU), "torch" (by pieces of rows), "reference" (one operation after
            the other), or "auto".

    Returns:
        (..., outputs), in the type of `y`. A gated result is kept for the backward pass, as that of `torch.sigmoid`
        is: do not change it in place.

    Raises:
        InputError: If shapes do not belong together, a name is unknown or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> y, weight = torch.tensor([[10.0, -10.0]]), torch.tensor([[0.5, 0.0], [0.0, 1.0]])
        >>> ops.gelu_map(y, weight, kind="glu")
        tensor([[2.5000]])
    """
    _check(y, weight, bias, kind, approximate)
    return _dispatch.run("gelu_map", backend, y.device, y, weight, bias, kind, approximate)


def gelu_map_reference(y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str) -> Tensor:
    """The equations, one operation after the other."""
    g = F.gelu(y, approximate=approximate)
    h = F.linear(g, weight, bias)
    if kind == "linear":
        return h
    if kind == "glu":
        return F.glu(h, dim=-1)
    return (g if kind == "half_glu1" else y) * h.sigmoid()


def why_not(y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str) -> str | None:
    """Why rows cannot be taken piece by piece, or why they should not be; or None."""
    if torch.compiler.is_compiling():
        return "leaves a compiled program to its compiler, which plans memory itself"
    if y.device.type != "cpu":
        return f"takes pieces for the caches of a cpu, got {y.device.type}"
    types = {part.dtype for part in (y, weight, bias) if part is not None}
    if types not in ({torch.float32}, {torch.float64}):
        return f"computes in float32 or in float64, got {', '.join(sorted(str(dtype)[6:] for dtype in types))}"
    return None


class _Form(NamedTuple):
    """What is not a tensor, whether a backward pass will ask for the gates, and whether the kernel does it."""

    kind: str
    approximate: str
    keep: bool
    native: bool


def _gelu_map_native(y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str) -> Tensor:
    return _gelu_map(y, weight, bias, kind, approximate, native=True)


def _gelu_map_torch(y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str) -> Tensor:
    return _gelu_map(y, weight, bias, kind, approximate, native=False)


def _gelu_map(y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str, *, native: bool) -> Tensor:
    keep = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (y, weight, bias))
    rows = y.reshape(-1, y.shape[-1])
    out, _ = _GELUMap.apply(rows, weight, bias, _Form(kind, approximate, keep, native))
    return out.view(*y.shape[:-1], out.shape[-1])


class _GELUMap(torch.autograd.Function):
    """Rows (count, features) to outputs, and to the gates they were multiplied by if a backward pass may come."""

    @staticmethod
    def forward(y: Tensor, weight: Tensor, bias: Tensor | None, form: _Form) -> tuple[Tensor, Tensor | None]:
        return _outputs(y, weight, bias, form)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, Tensor | None]) -> None:
        y, weight, bias, ctx.form = inputs
        out, gate = output
        if gate is not None:
            ctx.mark_non_differentiable(gate)
        ctx.set_materialize_grads(False)  # or the gate's would be an array of zeros
        ctx.save_for_backward(y, weight, bias, None if gate is None else out, gate)
        ctx.save_for_forward(y, weight, bias)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        y, weight, bias, out, gate = ctx.saved_tensors
        grad, form = grad_outputs[0], ctx.form
        if grad is None:
            return None, None, None, None
        with _dispatch.without_autocast(y.device):
            transformed = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
            if transformed or (gate is None and form.kind != "linear"):
                # These derivatives may be differentiated or mapped themselves: by the equations, as torch knows them.
                run, given = _as_function(y, weight, bias, form)
                slopes = torch.func.vjp(run, *given)[1](grad)
                return *slopes, *(None,) * (4 - len(slopes))
            return *_gradients(grad, y, weight, bias, out, gate, form, ctx.needs_input_grad), None

    @staticmethod
    def jvp(ctx, *tangents: Tensor | None) -> tuple[Tensor, None]:
        y, weight, bias = ctx.saved_tensors[:3]
        dy, dweight, dbias, _ = tangents
        dy, dweight = (torch.zeros_like(x) if dx is None else dx for x, dx in ((y, dy), (weight, dweight)))
        return _tangent(y, weight, bias, ctx.form, dy, dweight, dbias), None

    @staticmethod
    def vmap(info, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        y, weight, bias, form = args
        if in_dims[1] is None and in_dims[2] is None:
            y = y.movedim(in_dims[0], 0)
            out, gate = (
                None if part is None else part.unflatten(0, y.shape[:2])
                for part in _GELUMap.apply(y.flatten(0, 1), weight, bias, form)
            )
            return (out, gate), (0, None if gate is None else 0)
        # One map a member: the equations, without gates, so that a backward pass takes them too.
        run, given = _as_function(y, weight, bias, form)
        return (torch.vmap(run, in_dims[: len(given)])(*given), None), (0, None)


def _as_function(
    y: Tensor, weight: Tensor, bias: Tensor | None, form: _Form
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The equations as a function of the tensors there are."""

    def run(y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return gelu_map_reference(y, weight, bias, form.kind, form.approximate)

    return run, (y, weight) if bias is None else (y, weight, bias)


def _tangent(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    form: _Form,
    dy: Tensor,
    dweight: Tensor,
    dbias: Tensor | None,
) -> Tensor:
    """The derivative along a direction, in forward mode."""
    g = F.gelu(y, approximate=form.approximate)
    dg = torch.ops.aten.gelu_backward(dy, y, approximate=form.approximate)
    h, dh = F.linear(g, weight, bias), F.linear(dg, weight) + F.linear(g, dweight, dbias)
    if form.kind == "linear":
        return dh
    value, dvalue = (g, dg) if form.kind == "half_glu1" else (y, dy)
    if form.kind == "glu":
        (value, h), (dvalue, dh) = h.chunk(2, dim=-1), dh.chunk(2, dim=-1)
    gate = h.sigmoid()
    return gate * (dvalue + value * (1 - gate) * dh)


def _pieces(y: Tensor) -> tuple[list[slice], int]:
    """Where the pieces of rows are, and how many rows the longest has."""
    count = min(max(_ELEMENTS // max(y.shape[1], 1), _LEAST), _MOST, len(y))
    return [slice(begin, min(begin + count, len(y))) for begin in range(0, len(y), max(count, 1))], count


def _outputs(y: Tensor, weight: Tensor, bias: Tensor | None, form: _Form) -> tuple[Tensor, Tensor | None]:
    """The outputs, and the gates if they are to be kept."""
    if form.native:
        return gelu_map_native.outputs(y, weight, bias, form.kind, form.approximate, form.keep)
    pieces, count = _pieces(y)
    gated = form.kind != "linear"
    width = len(weight) // 2 if form.kind == "glu" else len(weight)
    out, scratch = y.new_empty(len(y), width), y.new_empty(count, y.shape[1])
    kept = len(y) if form.keep else count
    # A row too many, given up at once: an aligned array of this size fits into a freed one only if that is larger.
    gates = y.new_empty(kept + 1, width).resize_(kept, width) if gated else None
    gate_bias, value_bias = (None, None) if bias is None else (bias[-width:], bias[:width])
    for piece in pieces:
        part, result = y[piece], out[piece]
        g = torch.ops.aten.gelu.out(part, approximate=form.approximate, out=scratch[: len(part)])
        if gates is None:
            _map(g, weight, bias, result)
            continue
        gate = gates[piece] if form.keep else gates[: len(part)]
        _map(g, weight[-width:], gate_bias, gate).sigmoid_()
        if form.kind == "glu":
            _map(g, weight[:width], value_bias, result).mul_(gate)
        else:
            torch.mul(g if form.kind == "half_glu1" else part, gate, out=result)
    return out, gates if form.keep else None


def _map(g: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """W g + c into `out`."""
    return torch.mm(g, weight.T, out=out) if bias is None else torch.addmm(bias, g, weight.T, out=out)


def _gradients(
    grad: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor | None,
    gates: Tensor | None,
    form: _Form,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The derivatives by y, the weight and the bias."""
    if form.native:
        return gelu_map_native.gradients(grad, y, weight, bias, out, gates, form.kind, form.approximate, needed)
    pieces, count = _pieces(y)
    grad_y = torch.empty_like(y) if needed[0] else None
    grad_weight = torch.zeros_like(weight) if needed[1] else None
    grad_bias = torch.zeros_like(bias) if bias is not None and needed[2] else None
    scratch, mapped = y.new_empty(count, y.shape[1]), y.new_empty(count, len(weight))
    through = y.new_empty(count, y.shape[1]) if form.kind.startswith("half") else None
    for piece in pieces:
        part, slope = y[piece], grad[piece]
        size = len(part)
        direct = None if through is None else through[:size]
        if out is not None and gates is not None:
            slope = _through_gate(slope, out[piece], gates[piece], mapped[:size], direct)
        if grad_weight is not None:
            g = torch.ops.aten.gelu.out(part, approximate=form.approximate, out=scratch[:size])
            grad_weight.addmm_(slope.T, g)
        if grad_bias is not None:
            grad_bias.add_(slope.sum(0))
        if grad_y is None:
            continue
        grad_g = torch.mm(slope, weight, out=scratch[:size])
        if direct is not None and form.kind == "half_glu1":
            grad_g.add_(direct)
        found = grad_y[piece]
        torch.ops.aten.gelu_backward.grad_input(grad_g, part, approximate=form.approximate, grad_input=found)
        if direct is not None and form.kind == "half_glu2":
            found.add_(direct)
    return grad_y, grad_weight, grad_bias


def _through_gate(grad: Tensor, out: Tensor, gate: Tensor, mapped: Tensor, direct: Tensor | None) -> Tensor:
    """The derivative by the map's result, into `mapped`; that by the value goes into `direct`, if it is not mapped."""
    width = gate.shape[1]
    value = torch.mul(grad, gate, out=mapped[:, :width] if direct is None else direct)
    torch.sub(grad, value, out=mapped[:, -width:]).mul_(out)
    return mapped


def _check(y: Tensor, weight: Tensor, bias: Tensor | None, kind: str, approximate: str) -> None:
    check_choice(kind, KINDS, name="kind")
    check_choice(approximate, _GELUS, name="approximate")
    features = y.shape[-1] if y.dim() else -1
    if weight.dim() != 2 or weight.shape[1] != features or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(
            f"`y` has shape {tuple(y.shape)}, `weight` {tuple(weight.shape)} and `bias` "
            f"{None if bias is None else tuple(bias.shape)}, but (..., features), (outputs, features) and (outputs,) "
            "are needed; pass the weight of a Linear as it is."
        )
    if kind == "glu" and len(weight) % 2:
        raise InputError(
            f"`weight` has {len(weight)} rows with kind='glu', but an even number is needed: values, then as many "
            "gates; pass both or take kind='linear'."
        )
    if kind.startswith("half") and len(weight) != features:
        raise InputError(
            f"`weight` has {len(weight)} rows with kind={kind!r}, but {features}, as many as features, are needed to "
            "gate them; take kind='glu' to change the width."
        )


_dispatch.register(
    "gelu_map",
    _dispatch.Backend("native", _gelu_map_native, gelu_map_native.why_not),
    _dispatch.Backend("torch", _gelu_map_torch, why_not),
    _dispatch.Backend("reference", gelu_map_reference, _dispatch.always),
)
