"""The laws about layers as programs: saved, copied, exported and compiled."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from longstate.diagnostics.laws.trial import AnyLayer, MakeInput, Measurement, Trial, carried_state, copied, first_line
from longstate.layers.base import CausalLayer, GridLayer

SHORT = 12
"""Elements of the sequences in this file; a program's cost is its tracing."""


def check_copies(layer: AnyLayer, *, make_input: MakeInput | None = None, length: int = SHORT) -> Measurement:
    """Law 9, part 1: a layer is what its `state_dict` says, and a copy is independent of it.

    The `state_dict` of the layer is loaded into a copy whose every number was changed; the two must then agree to
    the bit. A layer that has run can be copied, and a change of the copy does not reach it.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.

    Returns:
        The largest difference found and the tolerance, 0.

    Raises:
        LawViolation: Something that matters is not saved, or is shared by copies.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_copies(S4D(d_model=4, d_state=8)).difference
        0.0
    """
    trial = Trial("copies", layer, make_input, tolerance=0.0)
    layer = trial.layer
    x = trial.draw(2, length)
    expected = layer.forward(x).detach()
    twin = copied(layer)
    trial.compare("outputs of `copy.deepcopy` differ", [(twin.forward(x), expected)])
    with torch.no_grad():
        for tensor in _numbers(twin):
            tensor.copy_(tensor * 0.9 + 0.1)
        trial.compare("the layer changes with its copy, which differs", [(layer.forward(x), expected)])
        twin.load_state_dict({name: tensor.clone() for name, tensor in layer.state_dict().items()})
        trial.compare("outputs after `load_state_dict` differ", [(twin.forward(x), expected)])
    return trial.result()


def check_export(layer: AnyLayer, *, make_input: MakeInput | None = None, length: int = SHORT) -> Measurement:
    """Law 9, part 2: `torch.export` takes every view, and the program can be written down and read back.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence; the exported program is static.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: A view cannot be exported, or its program gives other numbers.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_export(S4D(d_model=4, d_state=8), length=4).law
        'torch.export'
    """
    trial = Trial("torch.export", layer, make_input)
    for view, (module, arguments) in _views(trial, length).items():
        try:
            with _torch_may_warn():
                program = torch.export.export(module, arguments)
                program.example_inputs = None  # they would be pickled
                written = io.BytesIO()
                torch.export.save(program, written)
                written.seek(0)
                found = torch.export.load(written).module()(*arguments)
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            raise trial.refuse(f"{view} cannot be exported ({first_line(error)})") from error
        _compare_trees(trial, f"{view} and its exported program differ", found, module(*arguments))
    return trial.result()


def check_compile(
    layer: AnyLayer, *, make_input: MakeInput | None = None, length: int = SHORT, backend: str = "aot_eager"
) -> Measurement:
    """Law 9, part 3: `torch.compile(fullgraph=True)` takes every view, with the gradients of its outputs.

    The caches of `torch.compile` are reset before and after.

    Args:
        layer: What is examined; it is copied first.
        make_input: Draws an input from (batch, length); by default normal numbers (batch, length, d_model).
        length: Elements of the sequence.
        backend: Of `torch.compile`; "inductor" needs a C++ compiler and takes longer.

    Returns:
        The largest difference found and the tolerance.

    Raises:
        LawViolation: A view breaks the graph, or compiled it gives other numbers.

    Example:
        >>> from longstate import S4D, diagnostics
        >>> diagnostics.laws.check_compile(S4D(d_model=4, d_state=8), length=4).law
        'torch.compile'
    """
    trial = Trial("torch.compile", layer, make_input)
    for view, (module, arguments) in _views(trial, length).items():
        torch.compiler.reset()
        try:
            with _torch_may_warn():
                found = torch.compile(module, fullgraph=True, backend=backend)(*arguments)
                slopes = _slopes(module, found)
        except RuntimeError as error:
            raise trial.refuse(f"{view} cannot be compiled ({first_line(error)})") from error
        expected = module(*arguments)
        _compare_trees(trial, f"{view} and its compiled form differ", found, expected)
        exact = _slopes(module, expected)
        _compare_trees(trial, f"gradients of {view} and of its compiled form differ", slopes, exact)
    torch.compiler.reset()
    return trial.result()


class _View(nn.Module):
    """One view of a layer as the forward of a module."""

    def __init__(self, layer: nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, *arguments: Any) -> Any:
        return self.call(self.layer, *arguments)


@contextmanager
def _torch_may_warn() -> Iterator[None]:
    """Ignore what torch says about its own code while it traces; it is not about the layer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")
        yield


def _views(trial: Trial[Any], length: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    """Every view of the trial's layer as a module, with arguments for it."""
    layer = trial.layer
    x, lengths = trial.draw(2, length), torch.tensor([length, 3], device=trial.device)
    views: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {"`forward`": (layer, (x,))}
    if isinstance(layer, GridLayer):
        return views
    if not isinstance(layer, CausalLayer):
        padded = _View(layer, lambda module, x, lengths: module(x, lengths=lengths))
        return views | {"`forward` with lengths": (padded, (x, lengths))}
    with torch.no_grad():
        state = carried_state(trial, 2)
    chunk = _View(layer, lambda module, x, state, n: module.forward_with_state(x, state, lengths=n))
    step = _View(layer, lambda module, x_t, state: module.step(x_t, state))
    return views | {"`forward_with_state`": (chunk, (x, state, lengths)), "`step`": (step, (x[:, 0], state))}


def _numbers(layer: nn.Module) -> list[Tensor]:
    """Floating tensors that a `state_dict` should hold, and tensors that a layer hides from it."""
    plain = [value for module in layer.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    saved = [tensor.detach() for tensor in layer.state_dict(keep_vars=True).values()]
    return [tensor for tensor in (*saved, *plain) if tensor.dtype.is_floating_point or tensor.dtype.is_complex]


def _slopes(module: nn.Module, outputs: Any) -> list[Tensor]:
    """Derivatives of the sum of squares of all outputs by the parameters; none for a layer without any."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        return []
    total = torch.stack([y.square().sum() for y in _pytree.tree_leaves(outputs) if y.requires_grad]).sum()
    return list(torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True))


def _compare_trees(trial: Trial[Any], what: str, found: Any, expected: Any) -> None:
    """Compare all tensors of two results, and their structures."""
    if _pytree.tree_structure(found) != _pytree.tree_structure(expected):
        raise trial.refuse(f"{what} in structure")
    for pair in zip(_pytree.tree_leaves(found), _pytree.tree_leaves(expected), strict=True):
        trial.compare(what, [pair])
