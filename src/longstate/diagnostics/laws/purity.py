"""The laws about what a call leaves behind: nothing in eval mode, and statistics of valid steps in training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from longstate.diagnostics.laws.rows import fillers_of
from longstate.diagnostics.laws.trial import (
    LENGTH,
    AnyLayer,
    MakeInput,
    Measurement,
    Trial,
    carried_state,
    copied,
    relative_difference,
)
from longstate.layers.base import CausalLayer, GridLayer, SequenceLayer


def check_purity(layer: AnyLayer, *, make_input: MakeInput | None = None, length: int = LENGTH) -> Measurement:
    """Law 5: a call changes no parameter, buffer, attribute or argument, and called twice it gives the same bits.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.

    Returns:
        The largest difference found and the tolerance, 0.

    Raises:
        LawViolation: Something was written to, or the second call differs.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_purity(S4D(d_model=4, d_state=8)).difference
        0.0
    """
    trial = Trial("purity", layer, make_input, tolerance=0.0)
    layer = trial.layer
    with torch.no_grad():
        x, lengths = trial.draw(3, length), torch.tensor([length, 2, 0], device=trial.device)
        calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "`forward`": (layer.forward, (x,))
            if isinstance(layer, GridLayer)
            else (lambda x, lengths: layer.forward(x, lengths=lengths), (x, lengths))
        }
        if isinstance(layer, CausalLayer):
            state = carried_state(Trial("purity", layer, make_input), 3)
            calls["`initial_state`"] = (lambda: layer.initial_state(3), ())
            calls["`forward_with_state`"] = (
                lambda x, state, lengths: layer.forward_with_state(x, state, lengths=lengths),
                (x, state, lengths),
            )
            calls["`step`"] = (layer.step, (x[:, 0], state))
            calls["`step` with constants"] = (
                lambda x_t, state, constants: layer.step(x_t, state, constants=constants),
                (x[:, 0], state, layer.constants()),
            )
        for view, (call, arguments) in calls.items():
            attributes, tensors, given = _attributes(layer), _tensors(layer), _clones(arguments)
            first = _clones(call(*arguments))
            if not _same_attributes(attributes, _attributes(layer)):
                raise trial.refuse(f"{view} sets attributes of the layer")
            trial.compare(
                f"{view} writes to the layer, which changes", list(zip(_tensors(layer), tensors, strict=True))
            )
            trial.compare(f"{view} writes to its arguments, which change", _pairs(_clones(arguments), given))
            trial.compare(f"{view} called twice differs", _pairs(_clones(call(*arguments)), first))
    return trial.result()


def check_training_statistics(
    layer: SequenceLayer, *, make_input: MakeInput | None = None, length: int = LENGTH
) -> Measurement:
    """Law of training: the only thing that a call writes are statistics in buffers, and padding is not in them.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of a row with its padding.

    Returns:
        The largest difference of a buffer and the tolerance.

    Raises:
        LawViolation: A parameter was written to, or the statistics know of the padding.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_training_statistics(S4D(d_model=4, d_state=8)).difference
        0.0
    """
    trial = Trial("training statistics", layer, make_input)
    short = length // 2 + 1
    x, full = trial.draw(4, length), torch.full((4,), short, device=trial.device)

    def trained(x: Tensor, lengths: Tensor | None, *, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
        subject = copied(layer).train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            y = subject(x, lengths=lengths)
        written = list(zip(subject.parameters(), layer.parameters(), strict=True))
        trial.compare("`forward` in training writes to parameters, which change", written, 0.0)
        return y, list(subject.buffers())

    uneven = torch.tensor([length, 1, short, 2], device=trial.device)
    for lengths in (full, uneven):
        found = []
        for filler in (0, *fillers_of(x)):
            filled = x.clone()
            filled[torch.arange(length, device=trial.device) >= lengths[:, None]] = filler
            found.append(trained(filled, lengths)[1])
        for buffers in found[1:]:
            trial.compare("statistics depend on what the padding holds", list(zip(buffers, found[0], strict=True)))
    alone, expected = trained(x[:, :short], None)
    if relative_difference([(trained(x[:, :short], None, seed=1)[0], alone)]) == 0:
        statistics = trained(x, full)[1]
        trial.compare("statistics of padded and unpadded rows differ", list(zip(statistics, expected, strict=True)))
    return trial.result()


def _tensors(layer: nn.Module) -> list[Tensor]:
    """Copies of every tensor that a layer holds, also of those outside parameters and buffers."""
    plain = [value for module in layer.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return [tensor.detach().clone() for tensor in (*layer.parameters(), *layer.buffers(), *plain)]


def _attributes(layer: nn.Module) -> list[object]:
    """Every attribute of every module and the items of containers among them, in order."""
    found: list[object] = []
    for name, module in layer.named_modules():
        for key, value in vars(module).items():
            found += [f"{name}.{key}", value]
            if isinstance(value, dict):
                found += [item for pair in value.items() for item in pair]
            elif isinstance(value, list | tuple | set):
                found += value
    return found


def _same_attributes(before: list[object], after: list[object]) -> bool:
    """True if nothing was added, removed or replaced."""
    plain = (str, int, float, bool)
    return len(before) == len(after) and all(
        a is b or (isinstance(a, plain) and isinstance(b, plain) and a == b) for a, b in zip(before, after, strict=True)
    )


def _clones(value: Any) -> list[Tensor]:
    """Copies of the tensors in arguments or results."""
    return [leaf.detach().clone() for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _pairs(found: list[Tensor], expected: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Two lists of tensors as pairs."""
    return list(zip(found, expected, strict=True))
