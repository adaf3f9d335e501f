"""Layers whose linear system is given and not learned: a filter that runs in all three views."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from longstate import ops, theory
from longstate.diagnostics.contraction import SISO
from longstate.layers import LTILayer


class FixedSystem(LTILayer):
    """A given discrete system for each feature, as a layer without output stage; nothing in it is trained.

        x_t = A x_{t-1} + B u_t,    y_t = C x_t + D u_t

    Args:
        system: Dense and real, with one output a feature.

    Example:
        >>> import torch
        >>> from longstate.diagnostics import FixedSystem
        >>> from longstate.ops import LTISystem
        >>> one = torch.ones(1, 1)
        >>> average = FixedSystem(LTISystem(0.5 * one[None], 0.5 * one, one[None], 0 * one))
        >>> average(torch.ones(1, 4, 1)).flatten()
        tensor([0.5000, 0.7500, 0.8750, 0.9375])
    """

    has_time_scale: ClassVar[bool] = False

    A: nn.Parameter
    B: nn.Parameter

    def __init__(self, system: ops.LTISystem) -> None:
        super().__init__(system.B.shape[0], system.B.shape[1], 1, "none", 0.0, layer=type(self).__name__)
        for name, value in system._asdict().items():
            self.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The system as it is, in float64; `rate` is 1."""
        return ops.LTISystem(self.A.double(), self.B.double(), self.C.double(), self.D.double())

    def _state_shape(self) -> tuple[int, ...]:
        return (self.d_model, self.d_state)


class HeldSystem(FixedSystem):
    """A given continuous system for each feature, discretised at any rate; nothing in it is trained.

        x'(t) = A x(t) + B u(t),    y(t) = C x(t) + D u(t),    t in samples

    Args:
        system: Dense and real, with one output a feature, A and B those of the continuous system.
        rule: Discretisation, one of `theory.RULES`.

    Example:
        >>> import torch
        >>> from longstate.diagnostics import HeldSystem
        >>> from longstate.ops import LTISystem
        >>> one = torch.ones(1, 1)
        >>> leaky = HeldSystem(LTISystem(-one[None], one, one[None], 0 * one), "zoh")
        >>> leaky(torch.ones(1, 3, 1), rate=0.5).flatten()
        tensor([0.3935, 0.6321, 0.7769])
    """

    has_time_scale: ClassVar[bool] = True

    def __init__(self, system: ops.LTISystem, rule: str) -> None:
        super().__init__(system)
        self.rule = rule

    def system(self, rate: float = 1.0) -> ops.LTISystem:
        """The discrete system at a rate, in float64."""
        A, B = theory.discretize_dense(self.A.double(), self.B.double(), rate, self.rule)
        return ops.LTISystem(A, B, self.C.double(), self.D.double())


def stacked(systems: Sequence[SISO], dtype: torch.dtype) -> ops.LTISystem:
    """One system a feature as an `LTISystem`, the smaller ones with states that stay 0."""
    size = max(len(system.B) for system in systems)

    def padded(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack([np.pad(x, (0, size - x.shape[-1])) for x in parts])).to(dtype)

    return ops.LTISystem(
        padded([system.A for system in systems]),
        padded([system.B for system in systems]),
        padded([system.C for system in systems])[None],
        torch.tensor([[system.D for system in systems]], dtype=dtype),
    )
