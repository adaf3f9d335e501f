"""One law tried on one layer: the inputs, the comparisons and the sentence when it is broken."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

from longstate._checks import InputError
from longstate.layers.base import CausalLayer, GridLayer, SequenceLayer

AnyLayer: TypeAlias = SequenceLayer | GridLayer
LayerType = TypeVar("LayerType", bound=AnyLayer)
MakeInput = Callable[[int, int], Tensor]
"""Draws an input from (batch, length); its first two axes are these. Integers stay what they are: ids of tokens."""
Pairs = Iterable[tuple[Tensor, Tensor]]
"""Tensors to compare: (found, expected)."""

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}
LENGTH = 24
FUTURE = 8


class LawViolation(AssertionError):
    """A layer breaks a law of the protocol; the message names the law, the difference and the tolerance."""


class Measurement(NamedTuple):
    """The largest difference that a law found, relative to the largest value, and what it allows."""

    law: str
    difference: float
    tolerance: float


class Trial(Generic[LayerType]):
    """A copy of the layer in eval mode, seeded inputs for it, and the largest difference found so far."""

    def __init__(self, law: str, layer: LayerType, make_input: MakeInput | None, *, tolerance: float | None = None):
        self.law = law
        self.layer: LayerType = copied(layer)
        self.layer.eval()
        self.dtype = floating_dtype(layer)
        self.device = next((p.device for p in layer.parameters()), torch.device("cpu"))
        if self.dtype not in TOLERANCES:
            raise InputError(
                f"the layer's parameters are {self.dtype}, but the laws are measured in float32 or float64; "
                "call `layer.float()` first."
            )
        self.tolerance = TOLERANCES[self.dtype] if tolerance is None else tolerance
        self._make_input = make_input
        self._worst = 0.0
        self._draws = 0

    def draw(self, batch: int, length: int) -> Tensor:
        """A new input; the same ones in the same order in every trial, and the global generator is left alone."""
        self._draws += 1
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._draws)
            if self._make_input is None:
                x = torch.randn(batch, length, self.layer.d_model, dtype=torch.float64)
            else:
                x = self._make_input(batch, length)
        return x.to(self.device, self.dtype if x.dtype.is_floating_point else x.dtype)

    def allow(self, what: str, difference: float, tolerance: float | None = None) -> None:
        """Record a difference, or raise if it is beyond the tolerance (of this law, unless another is given)."""
        limit = self.tolerance if tolerance is None else tolerance
        if not difference <= limit:
            raise LawViolation(
                f"{self.law}: {what} by {difference:.2g} of the largest value, but at most {limit:g} is allowed."
            )
        self._worst = max(self._worst, difference)

    def compare(self, what: str, pairs: Pairs, tolerance: float | None = None) -> None:
        """Raise unless the tensors of each pair agree."""
        self.allow(what, relative_difference(pairs), tolerance)

    def refuse(self, what: str) -> LawViolation:
        """The violation for what cannot be measured as a difference."""
        return LawViolation(f"{self.law}: {what}, which the tolerance of {self.tolerance:g} does not cover.")

    def result(self) -> Measurement:
        """What was measured."""
        return Measurement(self.law, self._worst, self.tolerance)


def carried_state(trial: Trial[Any], batch: int) -> Any:
    """A state that some past has led to, so that it is neither zero nor unreachable."""
    prefix = trial.draw(batch, 5)
    return trial.layer.forward_with_state(prefix, trial.layer.initial_state(batch))[1]


def compare_states(trial: Trial[Any], what: str, states: Sequence[tuple[Any, Any]]) -> None:
    """Raise unless each pair (found, expected) gives the same next outputs, and the same tensors of fixed shape."""
    structure = _pytree.tree_structure(trial.layer.initial_state(1))
    for state in (state for pair in states for state in pair):
        if _pytree.tree_structure(state) != structure:
            raise trial.refuse(f"{what} have the structure {_pytree.tree_structure(state)}")
    pairs = [(_pytree.tree_leaves(found), _pytree.tree_leaves(expected)) for found, expected in states]
    shapes = {tuple(leaf.shape[1:] for leaf in leaves) for pair in pairs for leaves in pair}
    if len(shapes) == 1:  # no cache that grows: all states make one batch
        pairs = [tuple([torch.cat(leaf) for leaf in zip(*side, strict=True)] for side in zip(*pairs, strict=True))]
    future = []
    for pair in pairs:
        x = trial.draw(len(pair[1][0]) if structure.num_leaves else 1, FUTURE)
        found, expected = (_pytree.tree_unflatten(leaves, structure) for leaves in pair)
        future.append((run_steps(trial.layer, x, found)[0], run_steps(trial.layer, x, expected)[0]))
    trial.compare(f"the {FUTURE} outputs that follow {what} differ", future)
    leaves = [leaf for pair in pairs for leaf in zip(*pair, strict=True)]
    fixed = [(a, b) for a, b in leaves if a.shape[1:] == b.shape[1:]]
    # All together, since a number kept in two parts (a sum and what it lost to rounding) is one number.
    trial.compare(f"the tensors of {what} differ", [pair for pair in fixed if pair[1].dtype.is_floating_point])
    if not all(torch.equal(a, b) for a, b in fixed if not b.dtype.is_floating_point):
        raise trial.refuse(f"the integers of {what} differ")


def run_steps(
    layer: CausalLayer[Any], x: Tensor, state: Any, *, rate: float | Tensor | None = None
) -> tuple[Tensor, Any]:
    """`x` (batch, length, ...) one element at a time; with the constants computed once if one rate serves all."""
    varies = isinstance(rate, Tensor)
    constants = None if varies else layer.constants(rate=rate)
    outputs = []
    for t in range(x.shape[1]):
        y_t, state = layer.step(x[:, t], state, rate=rate[:, t] if varies else rate, constants=constants)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


def takes(layer: SequenceLayer, x: Tensor, *, rate: float | Tensor | None = None, starts: Tensor | None = None) -> bool:
    """False if the layer refuses an argument with its sentence."""
    try:
        with torch.no_grad():
            layer.forward(x, rate=rate, starts=starts)
    except InputError:
        return False
    return True


def relative_difference(pairs: Pairs) -> float:
    """Max |found - expected| / max |expected| over all pairs; infinite for unlike shapes, NaN if anything is NaN."""
    error = scale = torch.zeros((), dtype=torch.float64)
    for found, expected in pairs:
        if found.shape != expected.shape:
            return float("inf")
        if expected.numel() == 0:
            continue
        a, b = found.detach().cpu().double(), expected.detach().cpu().double()
        error = torch.maximum(error, (a - b).abs().max())
        scale = torch.maximum(scale, b.abs().max())
    return float(error / scale if scale > 0 else error)


def floating_dtype(layer: AnyLayer) -> torch.dtype:
    """The type of the layer's parameters (of its buffers, if it has none)."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
            return tensor.dtype
    return torch.get_default_dtype()


def copied(layer: LayerType) -> LayerType:
    """A copy that shares nothing with the layer, so that a law can change it."""
    try:
        return copy.deepcopy(layer)
    except RuntimeError as error:
        raise LawViolation(
            f"copies: `copy.deepcopy` of the layer fails ({first_line(error)}), "
            "which the tolerance of 0 does not cover."
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, shortened to go into a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
