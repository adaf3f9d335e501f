"""S4ND: state space kernels along every axis of an image or a video."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import InputError, check_axis_rates, check_choice, check_grid, check_positive
from longstate.layers.base import GridLayer, recurrent_dtype
from longstate.layers.lti import untie
from longstate.layers.pointwise import build_output
from longstate.layers.s4 import S4
from longstate.layers.s4d import S4D

SYSTEMS = ("s4d", "s4")
_INITS = {"s4d": "lin", "s4": "legs"}
_RULES = {"s4d": "zoh", "s4": "bilinear"}


class S4ND(GridLayer):
    """State space layer over grids: one system an axis, whose kernels are multiplied.

        y[t] = D u[t] + 1/R Σ_r Σ_l K_1[r, l_1] K_2[r, l_2] ... u[t - l],    K_i[r] from the S4D or S4 of axis i

    then GELU and a gated linear map over features. The kernels come from continuous systems, so the layer takes grids
    of any size, and through `rate` of any resolution. It sees the whole grid, so there is no state.

    Args:
        d_model: Number of features.
        d_state: Real state size N of each feature on each axis; even.
        dim: Axes of a grid: 1, 2 for images, 3 for video.
        layer: The system of each axis: "s4d" (diagonal) or "s4" (diagonal plus low rank).
        bidirectional: Whether the kernel of an axis reaches both ways; one for all axes or one for each. The backward
            half begins one step away, so that the present counts once. A causal axis may be time.
        rank: R, the number of products that are averaged.
        bandlimit: α: modes with |Im A| dt / 2π >= α/2 are left out, where α = 1 is the highest frequency that a grid of
            the training resolution can show. Without it a finer grid (`rate` < 1) meets frequencies that training never
            saw. None keeps all.
        init: Modes at the start, by a name that the system knows; "lin" for S4D and "legs" for S4 if None.
        rule: Discretisation; "zoh" for S4D and "bilinear" for S4 if None.
        n_ssm: Number of different (A, B) on each axis; a divisor of `d_model`. All free if None, all tied if 1.
        dt_min: Smallest initial step, in positions^-1: a reach of about 1/dt_min positions.
        dt_max: Largest initial step.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "glu", "linear", or "none" (the bare convolution).

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Nguyen et al., S4ND: Modeling Images and Videos as Multidimensional Signals Using State Spaces,
        arXiv 2210.06583, sections 3 and 4.

    Example:
        >>> import torch
        >>> from longstate import S4ND
        >>> layer = S4ND(d_model=4, d_state=8, bandlimit=0.5)
        >>> coarse, fine = torch.randn(2, 16, 24, 4), torch.randn(2, 32, 48, 4)
        >>> layer(coarse).shape, layer(fine, rate=0.5).shape
        (torch.Size([2, 16, 24, 4]), torch.Size([2, 32, 48, 4]))
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        dim: int = 2,
        layer: str = "s4d",
        bidirectional: bool | Sequence[bool] = True,
        rank: int = 1,
        bandlimit: float | None = None,
        init: str | None = None,
        rule: str | None = None,
        n_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dropout: float = 0.0,
        output: str = "glu",
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, dim=dim, rank=rank)
        check_choice(layer, SYSTEMS, name="layer")
        both_ways = (bidirectional,) * dim if isinstance(bidirectional, bool) else tuple(bidirectional)
        if len(both_ways) != dim:
            raise InputError(
                f"`bidirectional` is {bidirectional}, but one choice for all or one for each of the {dim} axes is "
                "needed; a single True makes every axis bidirectional."
            )
        if bandlimit is not None and not bandlimit > 0:
            raise InputError(
                f"`bandlimit` is {bandlimit}, but a positive number is needed; 0.5 keeps half of the band, None all."
            )
        self.d_model = d_model
        self.dim = dim
        self.rank = rank
        self.bidirectional = both_ways
        self.bandlimit = bandlimit
        self.axes = nn.ModuleList(
            _bare(
                (S4D if layer == "s4d" else S4)(
                    d_model,
                    d_state,
                    init=_INITS[layer] if init is None else init,
                    rule=_RULES[layer] if rule is None else rule,
                    channels=2 * rank if reaches_back else rank,
                    n_ssm=n_ssm,
                    dt_min=dt_min,
                    dt_max=dt_max,
                    output="linear",
                )
            )
            for reaches_back in both_ways
        )
        self.D = nn.Parameter(torch.randn(d_model))
        self.output = build_output(output, d_model, d_model, dropout)

    def forward(self, x: Tensor, *, rate: float | Sequence[float] | None = None) -> Tensor:
        """The whole grid by one convolution over all its axes."""
        check_grid(x, self.dim, self.d_model)
        rates = check_axis_rates(rate, self.dim)
        grid, dtype = x.shape[1:-1], recurrent_dtype(x.dtype)
        factors = [self.axis_kernel(axis, n, rate=rates[axis], dtype=dtype) for axis, n in enumerate(grid)]
        origins = [max(n - 1, 0) if both else 0 for n, both in zip(grid, self.bidirectional, strict=True)]
        return self.output(ops.fft_conv_nd(x, [factors[0] / self.rank, *factors[1:]], origins=origins, skip=self.D))

    def axis_kernel(self, axis: int, length: int, *, rate: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """The kernels K_i of one axis, at every lag between two of its positions.

        Args:
            axis: Which, from 0.
            length: Positions of the grid along it.
            rate: Multiplies its dt.
            dtype: Real type of the result.

        Returns:
            Kernels (rank, d_model, length), or (rank, d_model, 2 length - 1) for a bidirectional axis, with lag 0 in
            the middle.
        """
        K = ops.lti_kernel(self._system(axis, rate), max(length, 1), dtype=dtype)
        if not self.bidirectional[axis]:
            return K
        later, earlier = K.split(self.rank)
        return torch.cat([earlier[..., :-1].flip(-1), later], dim=-1)

    def _system(self, axis: int, rate: float) -> ops.LTISystem:
        layer = cast(S4 | S4D, self.axes[axis])
        system = layer.system(rate)
        if self.bandlimit is None or layer.A_imag is None:
            return system
        frequency = untie(layer.A_imag, self.d_model).abs() * layer.log_dt.exp()[:, None] / (2 * math.pi)
        kept = frequency < self.bandlimit / 2
        # The real form holds re and im of a mode in its two halves.
        kept = kept.repeat(1, 2) if system.is_dense else kept
        return system._replace(C=torch.where(kept, system.C, torch.zeros_like(system.C)))


def _bare(layer: S4 | S4D) -> S4 | S4D:
    """A layer of which only `system` is used: without its output stage, its skip out of training."""
    layer.output = nn.Identity()
    layer.D.requires_grad_(False).zero_()
    return layer
