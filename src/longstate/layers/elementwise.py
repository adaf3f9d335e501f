"""What all layers share that look at one element at a time: three views of one map, and nothing to carry."""

import abc

from torch import Tensor

from longstate._checks import check_element, check_lengths, check_sequence, zero_padding
from longstate.layers.base import CausalLayer


class ElementwiseLayer(CausalLayer[tuple[()]]):
    """A causal layer whose output depends on the present element alone; a subclass says how, in `map_elements`.

    Its state is empty, and `rate` and `starts` change nothing.
    """

    @abc.abstractmethod
    def map_elements(self, x: Tensor) -> Tensor:
        """Elements (count, d_model) to the same shape."""

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Every element by itself."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        return self.map_elements(zero_padding(x, lengths).flatten(0, 1)).view_as(x)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing is carried."""
        return ()

    def forward_with_state(
        self,
        x: Tensor,
        state: tuple[()],
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """Every element by itself."""
        return self.forward(x, lengths=lengths), ()

    def constants(self, *, rate: float | None = None) -> None:
        """None are needed."""

    def step(
        self, x_t: Tensor, state: tuple[()], *, rate: float | Tensor | None = None, constants: None = None
    ) -> tuple[Tensor, tuple[()]]:
        """One element."""
        check_element(x_t, self.d_model)
        return self.map_elements(x_t), ()
