"""SelectiveScan2d: the selective scan over images, in four directions at once; the SS2D of VMamba."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops
from longstate._checks import InputError, check_axis_rates, check_choice, check_grid, check_positive
from longstate.layers.base import GridLayer, OptimizerRule, recurrent_dtype
from longstate.layers.dropout import Dropout
from longstate.layers.mamba import NO_DECAY
from longstate.layers.norm import LayerNorm
from longstate.layers.selective_branch import inverse_softplus

GATES = ("silu", "linear", "none")
NORMS = ("layer", "none")
_DIRECTIONS = 4


class SelectiveScan2d(GridLayer):
    """Four selective scans over the pixels of an image: by rows and by columns, both ways, added up.

        [x, z] = W_in u;    x' = silu(conv2d(x));    for each direction k, along its order of the pixels:
        r, B, C = W_x[k] x';    Δ = softplus(W_dt[k] r + b_dt[k]);    h = exp(Δ A[k]) h + Δ B x',    y_k = C h + D[k] x'
        y = W_out (norm(Σ_k y_k) gate(z))

    The four scans are one call of the operator, with channels in four groups. Images of any size and shape go through;
    `rate` multiplies Δ, a number for both axes or one for the height and one for the width: the scans that run down
    the columns take the first, those along the rows the second. The layer sees the whole image, so there is no state.

    Args:
        d_model: Number of features.
        d_state: States N of a channel; 1 in the released networks of version 2.
        expand: Channels for every feature, rounded down to a whole number of them.
        dt_rank: Width of the map that makes the steps; d_model / 16, rounded up, if None.
        d_conv: Height and width of the convolution before the scans; odd, and 1 for none.
        conv_bias: Whether the convolution has a bias.
        gate: What z does: "silu", "linear" (no activation), or "none" (there is no z: the "noz" of the authors).
        norm: After the sum of the directions: "layer" or "none".
        bias: Whether the two outer projections have biases.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        dropout: Share of outputs dropped in training.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Liu et al.: VMamba, arXiv 2401.10166, section 4.2 (SS2D).

    Example:
        >>> import torch
        >>> from longstate import SelectiveScan2d
        >>> SelectiveScan2d(d_model=8, d_state=4)(torch.randn(2, 5, 7, 8)).shape
        torch.Size([2, 5, 7, 8])
    """

    dim = 2
    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "A_log": NO_DECAY,
        "D": NO_DECAY,
        "dt_bias": NO_DECAY,
    }

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        *,
        expand: float = 2.0,
        dt_rank: int | None = None,
        d_conv: int = 3,
        conv_bias: bool = True,
        gate: str = "silu",
        norm: str = "layer",
        bias: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, d_state=d_state, d_conv=d_conv)
        check_choice(gate, GATES, name="gate")
        check_choice(norm, NORMS, name="norm")
        d_inner = int(expand * d_model)
        if d_inner < 1:
            raise InputError(
                f"`expand` is {expand}, but at least 1/{d_model} is needed for a channel to be left of {d_model} "
                "features; 2.0 and 1.0 are usual."
            )
        if d_conv % 2 == 0:
            raise InputError(f"`d_conv` is {d_conv}, but an odd size is needed, with a pixel in its middle; take 3.")
        rank = -(-d_model // 16) if dt_rank is None else dt_rank
        check_positive(dt_rank=rank)
        self.d_model = d_model
        self.gate = gate
        self.splits = (rank, d_state, d_state)
        self.in_proj = nn.Linear(d_model, d_inner if gate == "none" else 2 * d_inner, bias=bias)
        self.conv = None
        if d_conv > 1:
            self.conv = nn.Conv2d(d_inner, d_inner, d_conv, padding=d_conv // 2, groups=d_inner, bias=conv_bias)
        self.x_proj = nn.Parameter(_uniform(_DIRECTIONS, sum(self.splits), d_inner, bound=d_inner**-0.5))
        self.dt_proj = nn.Parameter(_uniform(_DIRECTIONS, d_inner, rank, bound=rank**-0.5))
        self.dt_bias = nn.Parameter(inverse_softplus(_DIRECTIONS * d_inner, dt_min, dt_max).unflatten(0, (-1, d_inner)))
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(_DIRECTIONS, d_inner, 1))
        self.D = nn.Parameter(torch.ones(_DIRECTIONS, d_inner))
        self.norm = LayerNorm(d_inner) if norm == "layer" else nn.Identity()
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, *, rate: float | Sequence[float] | None = None) -> Tensor:
        """The whole image, in all four directions."""
        check_grid(x, self.dim, self.d_model)
        down, along = check_axis_rates(rate, self.dim)
        x = self.in_proj(x)
        z = None
        if self.gate != "none":
            x, z = x.chunk(2, dim=-1)
        if self.conv is not None and x.numel() > 0:
            x = self.conv(x.movedim(-1, 1)).movedim(1, -1)
        y = self.norm(self._scan(F.silu(x), rates=(along, down, along, down)))
        if z is not None:
            y = y * (F.silu(z) if self.gate == "silu" else z)
        return self.dropout(self.out_proj(y))

    def _scan(self, x: Tensor, rates: tuple[float, ...]) -> Tensor:
        """The sum of the four scans over x (batch, height, width, E)."""
        s = ops.cross_scan(x)
        r, B, C = torch.einsum("blke,kce->blkc", s, self.x_proj).split(self.splits, dim=-1)
        dt = torch.einsum("blkr,ker->blke", r, self.dt_proj)
        wide = recurrent_dtype(self.A_log.dtype)
        bias, softplus = self.dt_bias.flatten(), True
        if rates != (1.0,) * _DIRECTIONS:
            scale = torch.tensor(rates, dtype=wide, device=x.device)[:, None]
            dt, bias, softplus = F.softplus(dt.to(wide) + self.dt_bias.to(wide)) * scale, None, False
        A = -self.A_log.to(wide).exp().flatten(0, 1)
        y, _ = ops.selective_scan(
            s.flatten(2), dt.flatten(2), A, B, C, self.D.flatten(), dt_bias=bias, dt_softplus=softplus
        )
        return ops.cross_merge(y.unflatten(-1, (_DIRECTIONS, -1)), *x.shape[1:3])


def _uniform(*shape: int, bound: float) -> Tensor:
    return (torch.rand(*shape) * 2 - 1) * bound
