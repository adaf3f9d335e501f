"""The laws about steps of varying length: `rate` as a tensor, and steps cut into smaller ones."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate.diagnostics.laws.gradients import DERIVATIVE_TOLERANCE, SHORT, check_derivatives, valid_outputs
from longstate.diagnostics.laws.rows import compare_rows, example_starts
from longstate.diagnostics.laws.trial import (
    LENGTH,
    MakeInput,
    Measurement,
    Trial,
    carried_state,
    compare_states,
    copied,
    relative_difference,
    run_steps,
    takes,
)
from longstate.layers.base import CausalLayer, SequenceLayer

ORDER_TOLERANCE = 0.1
"""How far the order measured with 64 and 128 sub-steps may be from the one that is claimed."""


def check_irregular_rate(
    layer: SequenceLayer, *, make_input: MakeInput | None = None, length: int = LENGTH
) -> Measurement:
    """Law of intervals: a layer that takes a tensor for `rate` means the same by it in every view.

    A tensor of ones is no rate, a constant one is the number. For random intervals, some of them 0, the whole, its
    chunks and its steps agree; padded rows, with NaN for the intervals in the padding, and packed rows are the
    sequences alone.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequences.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: A view understands intervals differently.
        InputError: The layer takes no tensor for `rate`.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_irregular_rate(S4D(d_model=4, d_state=8).double(), length=9).law
        'irregular rate'
    """
    trial = Trial("irregular rate", layer, make_input)
    with torch.no_grad():
        x = trial.draw(3, length)
        same = torch.ones(3, length, dtype=trial.dtype, device=trial.device)
        forward = trial.layer.forward
        trial.compare("a rate of ones and no rate differ", [(forward(x, rate=same), forward(x))])
        trial.compare("a rate of twos and rate=2.0 differ", [(forward(x, rate=2 * same), forward(x, rate=2.0))])
        if isinstance(trial.layer, CausalLayer):
            _compare_views(trial, trial.layer, x)
    counts = [0, 1, 2, length // 2, length - 1, length]
    compare_rows(trial, counts, length, starts=None, rate=intervals(trial, len(counts), length))
    starts = example_starts(length)
    if takes(trial.layer, x, starts=starts[:3].to(trial.device)):
        for counts in ([length] * 7, [0, length, 1, length - 1, length // 2, 2 * length // 3, length // 2 + 1]):
            compare_rows(trial, counts, length, starts, rate=intervals(trial, 7, length))
    return trial.result()


def check_gradients_of_rate(
    layer: SequenceLayer, *, make_input: MakeInput | None = None, length: int = SHORT
) -> Measurement:
    """Law of intervals for derivatives: those by input, intervals, state and parameters are finite differences.

    `torch.autograd.gradcheck` runs on the same functions. What the padding holds, NaN for one, changes no derivative,
    and derivatives by the padding are exactly zero.

    Args:
        layer: What is examined; it is copied first, in float64.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of a sequence.

    Returns:
        The largest difference along a random direction and the tolerance.

    Raises:
        LawViolation: A derivative is wrong, missing or not finite.
        InputError: The layer takes no tensor for `rate`.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_gradients_of_rate(S4D(d_model=2, d_state=4), length=3).tolerance
        1e-06
    """
    trial = Trial("gradients of irregular rate", copied(layer).double(), make_input, tolerance=DERIVATIVE_TOLERANCE)
    layer = trial.layer
    x, rate = trial.draw(2, length), 0.5 + intervals(trial, 2, length)
    lengths = torch.tensor([length, length // 2], device=trial.device)

    def whole(module: Any, x: Tensor, rate: Tensor) -> list[Tensor]:
        return [valid_outputs(module(x, lengths=lengths, rate=rate), lengths)]

    def chunk(module: Any, x: Tensor, rate: Tensor, state: Any) -> list[Tensor]:
        y, after = module.forward_with_state(x, state, lengths=lengths, rate=rate)
        return [valid_outputs(y, lengths), *_pytree.tree_leaves(after)]

    def step(module: Any, x_t: Tensor, rate: Tensor, state: Any) -> list[Tensor]:
        y_t, after = module.step(x_t, state, rate=rate)
        return [y_t, *_pytree.tree_leaves(after)]

    calls: dict[str, tuple[Callable[..., list[Tensor]], tuple[Any, ...]]] = {"`forward`": (whole, (x, rate))}
    if isinstance(layer, CausalLayer):
        with torch.no_grad():
            state = carried_state(trial, 2)
        calls["`forward_with_state`"] = (chunk, (x, rate, state))
        calls["`step`"] = (step, (x[:, 0], rate[:, 0], state))
    for view, (call, arguments) in calls.items():
        check_derivatives(trial, view, call, arguments, names=("x", "rate"))
        if view != "`step`":
            _compare_padding(trial, view, call, arguments, lengths)
    return trial.result()


def check_substeps(
    layer: CausalLayer[Any], *, order: int | None = None, rate: float = 1.0, make_input: MakeInput | None = None
) -> Measurement:
    """Law of exact rules: n small steps of an unforced system make one step of n times the length.

    Zero-order hold, impulses and every rule that takes an exponential of dt obey it to rounding. Integrators
    (bilinear, Euler, oscillators) do not: there, what n and 2 n sub-steps give must differ by 2^order times less when
    n is doubled, which tells a rule from another one and from a mistake.

    Args:
        layer: A bare recurrence, whose state an input of zeros leaves to itself (no norm, no bias before it). It is
            copied first.
        order: None if the rule is exact, else its order: 1 for Euler, 2 for bilinear.
        rate: The length of the whole step. Take one that the fastest mode moves by a few radians at most.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).

    Returns:
        The largest difference found and the tolerance; with an order, how far the measured one is from it.

    Raises:
        LawViolation: Sub-steps lead elsewhere, or come closer at another order.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_substeps(S4D(4, 8).double()).tolerance
        1e-10
        >>> diagnostics.laws.check_substeps(S4D(4, 8, rule="bilinear").double(), order=2).tolerance
        0.1
    """
    law = "sub-steps" if order is None else f"sub-steps of order {order}"
    trial = Trial(law, layer, make_input, tolerance=None if order is None else ORDER_TOLERANCE)
    with torch.no_grad():
        state = carried_state(trial, 2)
        still = torch.zeros_like(trial.draw(2, 256))
        if order is None:
            _compare_substeps(trial, still, state, rate)
        else:
            ends = [_after(trial, still, state, rate, n) for n in (64, 128, 256)]
            errors = [relative_difference(zip(*pair, strict=True)) for pair in pairwise(ends)]
            measured = math.log2(errors[0] / errors[1]) if min(errors) > 0 else math.inf
            trial.allow(f"the order of convergence is {measured:.3g} and differs", abs(measured - order))
    return trial.result()


def intervals(trial: Trial[Any], batch: int, length: int) -> Tensor:
    """Intervals (batch, length) between 0 and 2, every fifth of them 0: two events at one instant."""
    generator = torch.Generator().manual_seed(batch + length)
    rate = 2 * torch.rand(batch, length, generator=generator, dtype=torch.float64)
    rate[:, 1::5] = 0.0
    return rate.to(trial.device, trial.dtype)


def _compare_views(trial: Trial[Any], layer: CausalLayer[Any], x: Tensor) -> None:
    """Whole, chunked and stepped, from the initial state and from a carried one."""
    length = x.shape[1]
    rate = intervals(trial, len(x), length)
    cuts = [[cut, length - cut] for cut in (0, 1, length // 2, length)] + [
        [2, 1, length // 3, length - length // 3 - 3]
    ]
    for state, origin in ((layer.initial_state(len(x)), "initial"), (carried_state(trial, len(x)), "carried")):
        whole, last = layer.forward_with_state(x, state, rate=rate)
        stepped, after_steps = run_steps(layer, x, state, rate=rate)
        trial.compare(f"`forward_with_state` and `step` differ from the {origin} state", [(stepped, whole)])
        finals = [(after_steps, last)]
        for sizes in cuts:
            outputs, current = [], state
            for part, part_rate in zip(x.split(sizes, dim=1), rate.split(sizes, dim=1), strict=True):
                y, current = layer.forward_with_state(part, current, rate=part_rate)
                outputs.append(y)
            cut = torch.cat(outputs, dim=1)
            trial.compare(f"chunks of {sizes} from the {origin} state and the whole differ", [(cut, whole)])
            finals.append((current, last))
        compare_states(trial, f"the states of steps, chunks and the whole from the {origin} state", finals)
        y = layer.forward(x, rate=rate)
        if origin == "initial":
            expected = whole if y.dim() == whole.dim() else whole[:, -1]
            trial.compare("`forward` and `forward_with_state` differ", [(y, expected)])


def _compare_padding(
    trial: Trial[Any],
    view: str,
    call: Callable[..., list[Tensor]],
    arguments: tuple[Any, ...],
    lengths: Tensor,
) -> None:
    """Derivatives with NaN in the padding, of x and of its intervals, and with numbers there."""
    x, rate, *state = arguments
    padding = torch.arange(rate.shape[1], device=rate.device) >= lengths[:, None]
    inner = padding.reshape(*padding.shape, *[1] * (x.dim() - 2))
    floating = x.dtype.is_floating_point
    slopes = []
    for filler in (math.nan, 1.0):
        points = [x.masked_fill(inner, filler) if floating else x, rate.masked_fill(padding, filler)]
        points = [part.requires_grad_(part.dtype.is_floating_point) for part in points]
        outputs = [y for y in call(trial.layer, *points, *state) if y.requires_grad]
        total = torch.stack([(y * y.detach().cos()).sum() for y in outputs]).sum()
        targets = [p for p in (*points, *trial.layer.parameters()) if p.requires_grad]
        slopes.append(torch.autograd.grad(total, targets, allow_unused=True, materialize_grads=True))
    trial.compare(f"derivatives of {view} with NaN and with numbers in the padding differ", zip(*slopes, strict=True))
    by_rate = slopes[0][1 if floating else 0]
    reach = float(by_rate[padding].abs().max())
    trial.allow(f"derivatives of {view} by intervals of the padding differ from 0", reach, 0.0)


def _compare_substeps(trial: Trial[CausalLayer[Any]], still: Tensor, state: Any, rate: float) -> None:
    """One step against equal ones in every view, and against unequal ones if the layer takes intervals."""
    layer = trial.layer
    expected = _numbers(layer.step(still[:, 0], state, rate=rate)[1])
    for n in (2, 3, 8):
        stepped = _numbers(run_steps(layer, still[:, :n], state, rate=rate / n)[1])
        trial.compare(f"one step and {n} sub-steps differ", zip(stepped, expected, strict=True))
        chunk = _after(trial, still, state, rate, n)
        trial.compare(f"one step and a chunk of {n} sub-steps differ", zip(chunk, expected, strict=True))
        parts = intervals(trial, 2, n)
        parts = rate * parts / parts.sum(1, keepdim=True)
        if takes(layer, still[:, :n], rate=parts):
            chunk = _numbers(layer.forward_with_state(still[:, :n], state, rate=parts)[1])
            trial.compare(f"one step and {n} unequal ones differ", zip(chunk, expected, strict=True))


def _after(trial: Trial[CausalLayer[Any]], still: Tensor, state: Any, rate: float, n: int) -> Sequence[Tensor]:
    """The state after n equal sub-steps."""
    return _numbers(trial.layer.forward_with_state(still[:, :n], state, rate=rate / n)[1])


def _numbers(state: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(state) if leaf.dtype.is_floating_point]
