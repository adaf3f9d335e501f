"""The laws about rows of a batch: padded, packed, and beside other rows."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate.diagnostics.laws.trial import (
    LENGTH,
    AnyLayer,
    MakeInput,
    Measurement,
    Trial,
    carried_state,
    compare_states,
)
from longstate.layers.base import CausalLayer, SequenceLayer

FILLERS = (float("nan"), 1e4)
"""What is put where nothing should be read: one poisons every sum, the other shows in rounding."""
ID_FILLERS = (-1, 10**6)
"""The same for ids, of which there are none so small and none so large."""


class Alone(NamedTuple):
    """A row run by itself, sequence by sequence: outputs (1, n, ...) of its valid elements, and the last state."""

    outputs: Tensor
    state: Any


def check_padded_rows(
    layer: SequenceLayer,
    *,
    make_input: MakeInput | None = None,
    length: int = LENGTH,
    lengths: Sequence[int] | None = None,
) -> Measurement:
    """Law 3: padded rows give the outputs and the final states of the rows alone, whatever the padding holds.

    The padding is filled with NaN and with 1e4; a causal layer also starts from a carried state, and a row without
    valid elements keeps it.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of a row with its padding.
        lengths: Valid elements of each row; by default 0, 1, 2, half, all but one, all.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: Padding changes a valid output or a state.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_padded_rows(S4D(d_model=4, d_state=8).double(), length=6, lengths=[0, 4]).tolerance
        1e-10
    """
    trial = Trial("padded rows = rows alone", layer, make_input)
    counts = list(lengths if lengths is not None else (0, 1, 2, length // 2, length - 1, length))
    compare_rows(trial, counts, length, starts=None)
    return trial.result()


def check_packed_rows(
    layer: SequenceLayer,
    *,
    make_input: MakeInput | None = None,
    length: int = LENGTH,
    starts: Tensor | None = None,
    lengths: Sequence[int] | None = None,
) -> Measurement:
    """Law 10: sequences packed into one row (`starts`) give the outputs of the sequences alone.

    The returned state is that of the row's last sequence. A carried state reaches only the sequence that goes on
    from before, where `starts[:, 0]` is False. A start in the padding is none.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of a row.
        starts: Where sequences begin, (batch, length) bool; by default seven rows of different kinds.
        lengths: Valid elements of each row; by default all, and for the default `starts` also seven different counts.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: Something crosses the border of a packed sequence.
        InputError: The layer refuses `starts`.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_packed_rows(S4D(d_model=4, d_state=8).double(), length=9).law
        'packed rows = sequences alone'
    """
    trial = Trial("packed rows = sequences alone", layer, make_input)
    choices = [[length] * 7, [0, length, 1, length - 1, length // 2, 2 * length // 3, length // 2 + 1]]
    if starts is not None:
        choices = [[length] * len(starts)]
    if lengths is not None:
        choices = [list(lengths)]
    starts = example_starts(length) if starts is None else starts
    for counts in choices:
        compare_rows(trial, counts, length, starts)
    return trial.result()


def check_rows_do_not_interact(
    layer: AnyLayer, *, make_input: MakeInput | None = None, length: int = LENGTH
) -> Measurement:
    """Law 6: a row of a batch gives the same beside any other rows, even rows of NaN or 1e4.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of a row.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: Another row shows.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_rows_do_not_interact(S4D(d_model=4, d_state=8).double()).tolerance
        1e-10
    """
    trial = Trial("rows do not interact", layer, make_input)
    layer = trial.layer
    with torch.no_grad():
        x = trial.draw(4, length)
        alone = torch.cat([layer.forward(row) for row in x.split(1)])
        trial.compare("outputs of rows in a batch and alone differ", [(layer.forward(x), alone)])
        for filler in FILLERS if x.dtype.is_floating_point else (0,):
            beside = x.clone()
            beside[1::2] = filler
            found = layer.forward(beside)[::2]
            trial.compare(f"outputs of rows beside rows of {filler} differ", [(found, alone[::2])])
        if not isinstance(layer, CausalLayer):
            return trial.result()
        state = carried_state(trial, 4)
        finals = []
        for row in range(4):
            beside = torch.full_like(x, FILLERS[0] if x.dtype.is_floating_point else 0)
            beside[row] = x[row]
            expected, after = layer.forward_with_state(x[row : row + 1], select_row(state, row))
            found, found_after = layer.forward_with_state(beside, state)
            trial.compare(f"outputs of row {row} of a chunk differ", [(found[row : row + 1], expected)])
            finals.append((select_row(found_after, row), after))
            expected, after = layer.step(x[row : row + 1, 0], select_row(state, row))
            found, found_after = layer.step(beside[:, 0], state)
            trial.compare(f"outputs of row {row} of a step differ", [(found[row : row + 1], expected)])
            finals.append((select_row(found_after, row), after))
        compare_states(trial, "the states of rows in a batch and alone", finals)
    return trial.result()


def fillers_of(x: Tensor) -> tuple[float, ...]:
    """What to put into the padding of `x`."""
    return FILLERS if x.dtype.is_floating_point else ID_FILLERS


def example_starts(length: int) -> Tensor:
    """Seven rows of marks: none, first, second, last element, everywhere, two inside, and first with two inside."""
    starts = torch.zeros(7, length, dtype=torch.bool)
    starts[1, 0] = True
    starts[2, min(1, length - 1)] = True
    starts[3, length - 1] = True
    starts[4] = True
    starts[5:, [length // 3, length // 2]] = True
    starts[6, 0] = True
    return starts


def select_row(state: Any, row: int) -> Any:
    """The state of one row, with its batch axis kept."""
    return _pytree.tree_map(lambda leaf: leaf[row : row + 1], state)


def sequences_alone(
    layer: CausalLayer[Any],
    x: Tensor,
    state: Any,
    lengths: Sequence[int],
    starts: Tensor | None,
    rate: Tensor | None = None,
) -> list[Alone]:
    """What each row should give: its sequences one after another, each from the initial state but for the first."""
    rows = []
    for row, count in enumerate(lengths):
        current, outputs = select_row(state, row), []
        for begin, end in _borders(None if starts is None else starts[row], count):
            if starts is not None and starts[row, begin]:
                current = layer.initial_state(1)
            here = slice(row, row + 1), slice(begin, end)
            y, current = layer.forward_with_state(x[here], current, rate=None if rate is None else rate[here])
            outputs.append(y)
        rows.append(Alone(torch.cat(outputs, dim=1) if outputs else x.new_zeros(0), current))
    return rows


def forward_alone(
    layer: SequenceLayer, x: Tensor, counts: list[int], starts: Tensor | None, rate: Tensor | None = None
) -> dict[tuple[int, int, int], Tensor]:
    """`forward` of each sequence by its row, begin and end; only of a row's last one if a row has one output."""
    found = {}
    for row, count in enumerate(counts):
        for begin, end in _borders(None if starts is None else starts[row], count):
            here = slice(row, row + 1), slice(begin, end)
            alone = layer.forward(x[here], rate=None if rate is None else rate[here])
            if alone.dim() > 2 or end == count:
                found[row, begin, end] = alone
    return found


def of_sequence(y: Tensor, row: int, begin: int, end: int) -> Tensor:
    """The outputs of one sequence in those of a batch; the row's only one if there is one a row."""
    return y[row : row + 1] if y.dim() == 2 else y[row : row + 1, begin:end]


def _borders(starts: Tensor | None, count: int) -> list[tuple[int, int]]:
    """Begin and end of each sequence among the first `count` elements of a row."""
    inside = [] if starts is None else [t for t in range(1, count) if starts[t]]
    edges = [0, *inside, count]
    return list(pairwise(edges)) if count else []


def compare_rows(
    trial: Trial[Any], counts: list[int], length: int, starts: Tensor | None, rate: Tensor | None = None
) -> None:
    """Compare rows padded and packed in one batch with their sequences alone, in every view the layer has.

    `rate` (batch, length) gives an interval to every element; those of the padding are replaced by what fills it.
    """
    layer = trial.layer
    lengths = torch.tensor(counts, device=trial.device)
    marks = None if starts is None else starts.to(trial.device)
    padding = torch.arange(length, device=trial.device) >= lengths[:, None]
    full = starts is not None and not padding.any()
    with torch.no_grad():
        x = trial.draw(len(counts), length)
        sequences = forward_alone(layer, x, counts, starts, rate)
        state, rows = None, []
        if isinstance(layer, CausalLayer):
            state = carried_state(trial, len(counts))
            rows = sequences_alone(layer, x, state, counts, starts, rate)
        fillers = fillers_of(x)
        for filler in fillers[:1] if full else fillers:
            filled = x.clone()
            filled[padding] = filler
            context = "of full rows" if full else f"of rows with padding of {filler}"
            given: dict[str, Any] = {"lengths": None if full else lengths, "starts": marks}
            given["rate"] = None if rate is None else rate.masked_fill(padding, filler)
            y = layer.forward(filled, **given)
            pairs = [(of_sequence(y, *place), alone) for place, alone in sequences.items()]
            trial.compare(f"outputs of `forward` {context} differ", pairs)
            if y.dim() == 2 and not y.isfinite().all():
                raise trial.refuse(f"outputs of `forward` {context} are not finite")
            if not isinstance(layer, CausalLayer):
                continue
            y, after = layer.forward_with_state(filled, state, **given)
            pairs = [(y[row : row + 1, :n], rows[row].outputs) for row, n in enumerate(counts) if n]
            trial.compare(f"outputs {context} differ", pairs)
            finals = [(select_row(after, row), alone.state) for row, alone in enumerate(rows)]
            compare_states(trial, f"the final states {context}", finals)
