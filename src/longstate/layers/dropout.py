"""Dropout in training, by the compiled kernel where there is much of it."""

import torch
from torch import Tensor, nn

from longstate import ops

_MANY = 1 << 14
"""Numbers from which on the kernel's call takes less time than torch's random numbers."""


class Dropout(nn.Dropout):
    """`nn.Dropout` that does not wait for random numbers and keeps no mask, over many float32 elements on a CPU.

    There torch draws one number after the other, in one thread. Here one seed comes from torch's generator, so that
    `torch.manual_seed` decides everything as ever, and the bits of an element from the seed and its place
    (`ops.dropout`).

    Args:
        p: Share of the elements that is dropped in training.

    Example:
        >>> import torch
        >>> from longstate.layers import Dropout
        >>> dropout = Dropout(0.1)
        >>> round(float((dropout(torch.ones(1000, 1000)) == 0).float().mean()), 2)
        0.1
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        """Map a tensor of any shape to another."""
        if not self.training or self.p == 0 or not self._by_kernel(input):
            return super().forward(input)
        return ops.dropout(input, self.p, int(torch.randint((1 << 63) - 1, ())))

    @staticmethod
    def _by_kernel(x: Tensor) -> bool:
        """A compiler has random numbers of its own, and so have the transformations of torch.func."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or x.numel() < _MANY:
            return False
        return type(x) in (Tensor, nn.Parameter) and ops.explain("dropout", x, 0.0, 0)[0][1] is None
