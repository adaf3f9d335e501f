"""The laws that hold for derivatives; all are measured in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError
from torch.utils import _pytree

from longstate.diagnostics.laws.rows import example_starts, fillers_of, forward_alone, of_sequence, sequences_alone
from longstate.diagnostics.laws.trial import (
    AnyLayer,
    MakeInput,
    Measurement,
    Trial,
    carried_state,
    copied,
    first_line,
    run_steps,
)
from longstate.layers.base import CausalLayer, GridLayer, SequenceLayer

SHORT = 9
"""Elements of a sequence in the laws of this file, which run a layer many times."""
STEP = 1e-5
DERIVATIVE_TOLERANCE = 1e-6
"""A central difference of step 1e-5 in float64 is true to about 1e-10."""


def check_causality(
    layer: CausalLayer[Any], *, make_input: MakeInput | None = None, length: int = SHORT
) -> Measurement:
    """Law 4: no output has a derivative by a later input.

    Args:
        layer: What is examined; it is copied first, in float64.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.

    Returns:
        The largest derivative by a later input relative to the largest derivative, and the tolerance.

    Raises:
        LawViolation: The future reaches the past.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_causality(S4D(d_model=4, d_state=8)).tolerance
        1e-10
    """
    trial = Trial("causality", copied(layer).double(), make_input)
    layer = trial.layer
    x = trial.draw(1, length)
    if not x.dtype.is_floating_point:
        return _causality_of_ids(trial, x)
    x.requires_grad_()
    views = {"`forward_with_state`": layer.forward_with_state(x, carried_state(trial, 1))[0], "`forward`": layer(x)}
    for view, y in views.items():
        if y.dim() == 2:
            continue
        weights = _weights(y[:, 0])
        slopes = torch.stack(
            [torch.autograd.grad((y[:, t] * weights).sum(), x, retain_graph=True)[0] for t in range(length)]
        )
        reach = slopes.flatten(3).abs().amax(dim=(1, 3))
        late = torch.arange(length, device=reach.device) > torch.arange(length, device=reach.device)[:, None]
        trial.compare(f"outputs of {view} depend on later inputs", [(reach, reach.masked_fill(late, 0.0))])
    return trial.result()


def check_gradients(layer: AnyLayer, *, make_input: MakeInput | None = None, length: int = SHORT) -> Measurement:
    """Law 7: derivatives by input, state and parameters are those of finite differences, in every view.

    Outputs and new states are differentiated together, so that a state that forgets its gradient is found.
    `torch.autograd.gradcheck` runs on the same functions. Keep the layer small.

    Args:
        layer: What is examined; it is copied first, in float64.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.

    Returns:
        The largest difference along a random direction and the tolerance.

    Raises:
        LawViolation: A derivative is wrong or missing.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_gradients(S4D(d_model=2, d_state=4), length=3).tolerance
        1e-06
    """
    trial = Trial("gradients", copied(layer).double(), make_input, tolerance=DERIVATIVE_TOLERANCE)
    layer = trial.layer
    x = trial.draw(2, length)
    lengths = torch.tensor([length, length // 2], device=trial.device)
    calls: dict[str, tuple[Callable[..., list[Tensor]], tuple[Any, ...]]] = {
        "`forward`": (lambda module, x: [module(x)], (x,))
    }
    if isinstance(layer, CausalLayer):
        with torch.no_grad():
            state = carried_state(trial, 2)

        def chunk(module: Any, x: Tensor, state: Any) -> list[Tensor]:
            y, after = module.forward_with_state(x, state, lengths=lengths)
            return [valid_outputs(y, lengths), *_pytree.tree_leaves(after)]

        def step(module: Any, x_t: Tensor, state: Any) -> list[Tensor]:
            y_t, after = module.step(x_t, state)
            return [y_t, *_pytree.tree_leaves(after)]

        calls["`forward_with_state`"] = (chunk, (x, state))
        calls["`step`"] = (step, (x[:, 0], state))
    elif not isinstance(layer, GridLayer):
        calls["`forward` with lengths"] = (lambda module, x: [valid_outputs(module(x, lengths=lengths), lengths)], (x,))
    for view, (call, arguments) in calls.items():
        check_derivatives(trial, view, call, arguments)
    return trial.result()


def check_gradients_of_rows(
    layer: SequenceLayer, *, make_input: MakeInput | None = None, length: int = SHORT
) -> Measurement:
    """Laws 3 and 10 for derivatives: padded (and, if causal, packed) rows train like the sequences alone.

    The padding holds NaN, so that a product with zero that hides it in the value still shows in the gradient;
    derivatives by the padding are exactly zero.

    Args:
        layer: What is examined; it is copied first, in float64.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of a row.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: Padding or packing changes a gradient.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_gradients_of_rows(S4D(d_model=4, d_state=8)).law
        'gradients of padded and packed rows'
    """
    trial = Trial("gradients of padded and packed rows", copied(layer).double(), make_input)
    layer = trial.layer
    counts = [length, 0, 1, length // 2 + 2]
    lengths = torch.tensor(counts, device=trial.device)
    padding = torch.arange(length, device=trial.device) >= lengths[:, None]
    for starts in (None, example_starts(length)[2:6]) if isinstance(layer, CausalLayer) else (None,):
        x = trial.draw(4, length)
        outside = padding.reshape(*padding.shape, *[1] * (x.dim() - 2))
        filled = x.masked_fill(outside, fillers_of(x)[0]).requires_grad_(x.dtype.is_floating_point)
        x.requires_grad_(x.dtype.is_floating_point)
        given: dict[str, Any] = {"lengths": lengths, "starts": None if starts is None else starts.to(trial.device)}
        context = "padded rows" if starts is None else "packed rows"
        y, sequences = layer.forward(filled, **given), forward_alone(layer, x, counts, starts)
        found = _slopes(layer, [filled], [of_sequence(y, *place) for place in sequences])
        expected = _slopes(layer, [x], list(sequences.values()))
        _compare_slopes(trial, f"`forward` of {context}", found, expected, padding)
        if not isinstance(layer, CausalLayer):
            continue
        with torch.no_grad():
            leaves, structure = _pytree.tree_flatten(carried_state(trial, 4))
        points, points_alone = [filled, *_copies(leaves)], [x, *_copies(leaves)]
        y, after = layer.forward_with_state(filled, _pytree.tree_unflatten(points[1:], structure), **given)
        outputs = [y[row : row + 1, :count] for row, count in enumerate(counts) if count]
        future = trial.draw(4, 2)
        rows = sequences_alone(layer, x, _pytree.tree_unflatten(points_alone[1:], structure), counts, starts)
        states = [row.state for row in rows]
        found = _slopes(layer, points, [*outputs, *_of_states(layer, [after], states, future)])
        outputs = [row.outputs for row, count in zip(rows, counts, strict=True) if count]
        expected = _slopes(layer, points_alone, [*outputs, *_of_states(layer, states, states, future)])
        _compare_slopes(trial, f"`forward_with_state` of {context}", found, expected, padding)
    return trial.result()


def _causality_of_ids(trial: Trial[CausalLayer[Any]], x: Tensor) -> Measurement:
    """Law 4 where nothing has a derivative: other ids from some place on change no output before it."""
    layer, other = trial.layer, trial.draw(1, x.shape[1])
    with torch.no_grad():
        state = carried_state(trial, 1)
        views = {
            "`forward_with_state`": lambda ids: layer.forward_with_state(ids, state)[0],
            "`forward`": layer.forward,
        }
        for view, call in views.items():
            whole = call(x)
            if whole.dim() == 2:
                continue
            for t in range(1, x.shape[1]):
                changed = torch.cat([x[:, :t], other[:, t:]], dim=1)
                trial.compare(f"outputs of {view} depend on later inputs", [(call(changed)[:, :t], whole[:, :t])])
    return trial.result()


def _of_states(layer: CausalLayer[Any], states: list[Any], rows: list[Any], future: Tensor) -> list[Tensor]:
    """The tensors of states joined over rows; if a cache has grown differently in `rows`, the next outputs instead."""
    shapes = {tuple(leaf.shape[1:] for leaf in _pytree.tree_leaves(row)) for row in rows}
    if len(shapes) == 1:
        return [torch.cat(leaf) for leaf in zip(*(_pytree.tree_leaves(state) for state in states), strict=True)]
    parts = future.split(len(future) // len(states))
    return [torch.cat([run_steps(layer, x, state)[0] for x, state in zip(parts, states, strict=True)])]


def valid_outputs(y: Tensor, lengths: Tensor) -> Tensor:
    """The outputs of valid elements; all outputs of a model that has one a row."""
    if y.dim() == 2:
        return y
    return y[torch.arange(y.shape[1], device=y.device) < lengths[:, None]]


def _weights(y: Tensor) -> Tensor:
    """Fixed irregular numbers of the shape of `y`, to make one number of many."""
    return torch.cos(torch.arange(1, y.numel() + 1, dtype=y.dtype, device=y.device) ** 1.3).reshape(y.shape)


def _copies(leaves: list[Tensor]) -> list[Tensor]:
    """The tensors of a state, as leaves of a new graph where they can be."""
    return [leaf.detach().clone().requires_grad_(leaf.dtype.is_floating_point) for leaf in leaves]


def _slopes(layer: nn.Module, inputs: list[Tensor], outputs: list[Tensor]) -> dict[str, Tensor]:
    """Derivatives of a weighted sum of all outputs by the input, the tensors of the state and the parameters."""
    names = ["x", *(f"tensor {index} of the state" for index in range(len(inputs) - 1))]
    targets = {name: leaf for name, leaf in zip(names, inputs, strict=True) if leaf.requires_grad}
    targets |= {f"`{name}`": p for name, p in layer.named_parameters() if p.requires_grad}
    total = torch.stack([(y * _weights(y)).sum() for y in outputs if y.requires_grad]).sum()
    slopes = torch.autograd.grad(total, list(targets.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(targets, slopes, strict=True))


def _compare_slopes(
    trial: Trial[Any], view: str, found: dict[str, Tensor], expected: dict[str, Tensor], padding: Tensor
) -> None:
    """Compare derivatives of padded rows with those of the rows alone, each by its name."""
    for name, slope in expected.items():
        trial.compare(f"derivatives of {view} by {name} differ", [(found[name], slope)])
    if "x" in found:
        trial.allow(f"derivatives of {view} by padding differ from 0", float(found["x"][padding].abs().max()), 0.0)


def check_derivatives(
    trial: Trial[Any],
    view: str,
    call: Callable[..., list[Tensor]],
    arguments: tuple[Any, ...],
    names: Sequence[str] = ("x",),
) -> None:
    """Compare one call's derivatives with finite differences along a direction, and then by `gradcheck`.

    The arguments are tensors with `names`, and a state after them if there is one.
    """
    parameters = {name: p.detach() for name, p in trial.layer.named_parameters() if p.requires_grad}
    given, structure = _pytree.tree_flatten(arguments)
    leaves = [*given, *parameters.values()]
    carried = [f"tensor {index} of the state" for index in range(len(given) - len(names))]
    names = [*names, *carried, *parameters]
    moving = [index for index, leaf in enumerate(leaves) if leaf.dtype.is_floating_point]

    def flat(*values: Tensor) -> Tensor:
        everything = list(leaves)
        for index, value in zip(moving, values, strict=True):
            everything[index] = value
        placed = _pytree.tree_unflatten(everything[: len(given)], structure)
        named = dict(zip((f"layer.{name}" for name in parameters), everything[len(given) :], strict=True))
        outputs = torch.func.functional_call(_Call(trial.layer, call), named, placed)
        # The product gives each output a gradient of its own: `view_as_real` takes no slice at an odd offset.
        return torch.cat([1.0 * y.reshape(-1) for y in outputs if y.dtype.is_floating_point])

    points = [leaves[index].clone().requires_grad_() for index in moving]
    value = flat(*points)
    weights = _weights(value)
    slopes = torch.autograd.grad((value * weights).sum(), points, allow_unused=True, materialize_grads=True)
    found, expected, scales = [], [], []
    for point, slope in zip(points, slopes, strict=True):
        direction = _weights(point) / max(point.numel(), 1) ** 0.5

        def moved(step: float, point: Tensor = point, direction: Tensor = direction) -> Tensor:
            with torch.no_grad():
                return (flat(*(p + step * direction if p is point else p for p in points)) * weights).sum()

        found.append(float((slope * direction).sum()))
        expected.append(float((moved(STEP) - moved(-STEP)) / (2 * STEP)))
        scales.append(max(float(slope.norm() * direction.norm()), abs(expected[-1])))
    floor = 1e-3 * max(scales)
    for index, a, b, scale in zip(moving, found, expected, scales, strict=True):
        error = abs(a - b) / max(scale, floor, 1e-300)
        trial.allow(f"derivatives of {view} by `{names[index]}` and finite differences differ", error)
    try:
        torch.autograd.gradcheck(flat, points, fast_mode=True)
    except GradcheckError as error:
        raise trial.refuse(f"`gradcheck` refuses {view} ({first_line(error)})") from error


class _Call(nn.Module):
    """A method of a layer as the forward of a module, so that `functional_call` can give it other parameters."""

    def __init__(self, layer: nn.Module, call: Callable[..., list[Tensor]]):
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, *arguments: Any) -> list[Tensor]:
        return self.call(self.layer, *arguments)
