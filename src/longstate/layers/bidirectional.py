"""Two causal layers, one of them run from the end to the beginning of every row."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, check_lengths, check_sequence, check_starts, zero_padding
from longstate.layers.base import CausalLayer, SequenceLayer


class Bidirectional(SequenceLayer):
    """The sum of a layer and of another one that runs backwards in time. It cannot stream, so it has no state.

        y = forward_layer(x) + reverse(backward_layer(reverse(x)))

    Each row (each packed sequence) is reversed by its own length, so padding never leaks into the backward direction.

    Args:
        forward_layer: The layer from the beginning to the end.
        backward_layer: The layer from the end to the beginning, of the same width.
        strict: Whether the backward layer sees only what comes after an element, not the element itself: the
            bidirectional S4 of the papers, whose two kernels do not both count the present.

    Raises:
        InputError: If the widths differ.

    Source:
        Goel et al., It's Raw! Audio Generation with State-Space Models, arXiv 2202.09729, section 4.2; `strict` is what
        the official S4 code does.

    Example:
        >>> import torch
        >>> from longstate import Bidirectional, S4D
        >>> Bidirectional(S4D(4), S4D(4))(torch.randn(2, 10, 4)).shape
        torch.Size([2, 10, 4])
    """

    def __init__(self, forward_layer: CausalLayer, backward_layer: CausalLayer, *, strict: bool = False) -> None:
        super().__init__()
        if forward_layer.d_model != backward_layer.d_model:
            raise InputError(
                f"the forward layer has d_model {forward_layer.d_model} and the backward layer "
                f"{backward_layer.d_model}, but one width is needed; build both with the same d_model."
            )
        self.d_model = forward_layer.d_model
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.strict = strict

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel, in both directions."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        x = zero_padding(x, lengths)
        if isinstance(rate, Tensor):
            raise InputError(
                f"`rate` is a tensor of shape {tuple(rate.shape)}, but Bidirectional takes one number, since intervals "
                "backwards are not those forwards; pass a float."
            )
        y = self.forward_layer(x, lengths=lengths, rate=rate, starts=starts)
        order, backward_starts = reversal(x, lengths, starts)
        backward_x = take_steps(x, order)
        back = self.backward_layer(backward_x, lengths=lengths, rate=rate, starts=backward_starts)
        if self.strict:
            back = F.pad(back[:, :-1], (0, 0, 1, 0))
            if backward_starts is not None:
                back = torch.where(backward_starts[..., None], back.new_zeros(()), back)
        return y + take_steps(back, order)


def reversal(x: Tensor, lengths: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Positions (batch, length) that reverse the valid part of each row, and where its sequences begin backwards."""
    batch, length = x.shape[:2]
    ends = torch.full((batch, 1), length, device=x.device) if lengths is None else lengths[:, None].to(torch.int64)
    t = torch.arange(length, device=x.device).expand(batch, length)
    order = torch.where(t < ends, ends - 1 - t, t)
    if starts is None:
        return order, None
    # Backwards, a sequence begins where forwards it ends: just before the next start, or at the end of the row.
    closes = F.pad(starts[:, 1:], (0, 1), value=True) | (t == ends - 1)
    return order, closes.gather(1, order)


def take_steps(x: Tensor, order: Tensor) -> Tensor:
    """`x` (batch, length, features) with its elements in another order (batch, length), row by row."""
    return x.gather(1, order[..., None].expand_as(x))
