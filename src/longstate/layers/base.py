"""The protocol: what a layer over sequences can do, in two rungs."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree

State = TypeVar("State")
StateClass = TypeVar("StateClass", bound=type)


class OptimizerRule(NamedTuple):
    """How the optimiser treats a parameter: learning rate min(max_lr, lr), and its weight decay (None: the run's)."""

    max_lr: float | None = None
    weight_decay: float | None = None


SLOW = OptimizerRule(max_lr=1e-3, weight_decay=0.0)
"""The rule of A, B and dt in S4, S4D and S5: a smaller rate and no decay."""


def register_state(cls: StateClass) -> StateClass:
    """Class decorator: make a NamedTuple of tensors a pytree that `torch.export` can write down by name."""
    _pytree._register_namedtuple(cls, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")
    return cls


class SequenceLayer(nn.Module, abc.ABC):
    """Rung 1: a map from (batch, length, d_model) to the same shape.

    `lengths` (batch,) counts the valid elements of right-padded rows; outputs after them are unspecified.
    `rate` multiplies dt: a number means another sampling rate, a tensor (batch, length) one interval an element.
    `starts` (batch, length) is True where a packed sequence begins; everything before is forgotten there.
    """

    d_model: int
    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {}

    @abc.abstractmethod
    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel."""


class CausalLayer(SequenceLayer, Generic[State]):
    """Rung 2: a layer whose past fits in a state, so that it also runs in chunks and step by step.

    A state is a NamedTuple of real tensors (or a tuple of states), batch first. It goes in and a new one comes out;
    recurrent parts are at least float32.
    """

    @abc.abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first element, for `batch_size` rows."""

    @abc.abstractmethod
    def forward_with_state(
        self,
        x: Tensor,
        state: State,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """A chunk of the sequence in parallel: outputs, and the state after the last valid element of each row."""

    @abc.abstractmethod
    def constants(self, *, rate: float | None = None) -> Any:
        """What `step` needs and depends on the parameters alone; computed once by whoever steps often."""

    @abc.abstractmethod
    def step(
        self, x_t: Tensor, state: State, *, rate: float | Tensor | None = None, constants: Any = None
    ) -> tuple[Tensor, State]:
        """One element (batch, d_model): the output and the next state.

        `rate` is a number, or a tensor (batch,) with one interval a row, which only goes without `constants`.
        """


class GridLayer(nn.Module, abc.ABC):
    """A map over grids, (batch, *grid, d_model) to the same shape: images, video. It has no order, so no state.

    `dim` is the number of axes of a grid. `rate` multiplies the step: a number for all axes or one for each of them,
    2.0 where a grid has half the resolution of training.
    """

    d_model: int
    dim: int
    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {}

    @abc.abstractmethod
    def forward(self, x: Tensor, *, rate: float | Sequence[float] | None = None) -> Tensor:
        """The whole grid in parallel."""


def recurrent_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of states and kernels beside activations of type `dtype`: float32 at least."""
    return torch.promote_types(dtype, torch.float32)
