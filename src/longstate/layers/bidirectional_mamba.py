"""Mamba in both directions of time, with the projections shared: the block of Vim."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from longstate._checks import InputError, check_lengths, check_positive, check_sequence, check_starts, zero_padding
from longstate.layers.base import OptimizerRule, SequenceLayer
from longstate.layers.bidirectional import reversal, take_steps
from longstate.layers.halves import linear_halves
from longstate.layers.mamba import NO_DECAY
from longstate.layers.selective_branch import SelectiveBranch


class BidirectionalMamba(SequenceLayer):
    """Two selective branches between one pair of projections, one of them run from the end to the beginning.

        [x, z] = W_in u;    y = W_out (s (f(x, z) + reverse(b(reverse(x), reverse(z)))))

    Both branches gate their own output and both count the present element; s is 1/2 with `halve`, else 1. Each row
    (each packed sequence) is reversed by its own length. It sees the whole sequence, so it has no state.

    Args:
        d_model: Number of features.
        d_state: States N of a channel.
        d_conv: Taps of the convolutions.
        expand: Channels for every feature.
        dt_rank: Width of the map that makes the steps; d_model / 16, rounded up, if None.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        conv_bias: Whether the convolutions have biases.
        bias: Whether the two projections have biases.
        inner_norm: An RMS norm of r, B and C, as in `Mamba`.
        norm_eps: Of that norm.
        halve: Whether the sum of the directions is halved, as in the released Vim models.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Zhu et al.: Vision Mamba, arXiv 2401.09417, algorithm 1 (`bimamba_type="v2"` of its code).

    Example:
        >>> import torch
        >>> from longstate import BidirectionalMamba
        >>> BidirectionalMamba(8)(torch.randn(2, 10, 8)).shape
        torch.Size([2, 10, 8])
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        f"{branch}.{name}": NO_DECAY
        for branch in ("forward_branch", "backward_branch")
        for name in ("A_log", "D", "dt_bias")
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        *,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        conv_bias: bool = True,
        bias: bool = False,
        inner_norm: str = "none",
        norm_eps: float = 1e-6,
        halve: bool = True,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, expand=expand)
        self.d_model = d_model
        self.halve = halve
        d_inner = expand * d_model
        rank = -(-d_model // 16) if dt_rank is None else dt_rank

        def branch() -> SelectiveBranch:
            return SelectiveBranch(
                d_inner,
                d_state,
                d_conv,
                rank,
                dt_min=dt_min,
                dt_max=dt_max,
                conv_bias=conv_bias,
                inner_norm=inner_norm,
                norm_eps=norm_eps,
            )

        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=bias)
        self.forward_branch, self.backward_branch = branch(), branch()
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)

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
        if isinstance(rate, Tensor):
            raise InputError(
                f"`rate` is a tensor of shape {tuple(rate.shape)}, but BidirectionalMamba takes one number, since "
                "intervals backwards are not those forwards; pass a float."
            )
        x, z = linear_halves(self.in_proj, zero_padding(x, lengths))
        ahead = self.forward_branch(x, z, lengths=lengths, rate=rate, starts=starts)
        order, back_starts = reversal(x, lengths, starts)
        back = self.backward_branch(
            take_steps(x, order), take_steps(z, order), lengths=lengths, rate=rate, starts=back_starts
        )
        y = ahead + take_steps(back, order)
        return self.out_proj(y / 2 if self.halve else y)
