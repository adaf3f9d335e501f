"""Attention and Mamba-2 side by side in one layer, as in Falcon-H1."""

from typing import TypeAlias

from torch import Tensor

from longstate.layers.attention import Attention, AttentionState
from longstate.layers.base import CausalLayer
from longstate.layers.mamba2 import Mamba2, Mamba2Constants, Mamba2State

ParallelHybridState: TypeAlias = tuple[AttentionState, Mamba2State]


class ParallelHybrid(CausalLayer[ParallelHybridState]):
    """Both ways to look back at once: every element attends to what was seen and reads a fixed state of it.

        y = Attention(x) + Mamba2(x)

    Its state is both states, so it grows with the sequence unless there is a window. `rate` reaches Mamba-2 alone, for
    attention counts places. The multipliers that Falcon-H1 was trained with are factors of the maps: `pretrained` puts
    them into the weights.

    Args:
        d_model: Number of features.
        n_heads: Query heads of attention.
        n_kv_heads: Key and value heads, a divisor of `n_heads`; as many as there are query heads if None.
        head_dim: Width of a head of attention; d_model / n_heads if None.
        window: Elements that an element attends to; all before it if None.
        rotary_base: Base of rotary positions; None for no positions.
        bias: Whether the maps of attention have biases.
        d_state: States N of a channel of Mamba-2.
        d_conv: Taps of its convolution.
        d_inner: Its inner channels; 2 d_model if None.
        ssm_head_dim: Channels of one of its heads.
        n_groups: Groups of its heads that share B and C.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.
        dt_floor: Smallest step at any time.
        dt_ceiling: Largest step at any time; None sets no limit.
        gate: "none" (y silu(z), as published), "gate_first" or "norm_first", as in `Mamba2`.
        norm_eps: Of that norm.
        conv_bias: Whether the convolution has a bias.
        ssm_bias: Whether the two outer maps of Mamba-2 have biases.

    Raises:
        InputError: If sizes do not fit or a name is not known.

    Source:
        Zuo et al.: Falcon-H1, arXiv 2507.22448, section 2.

    Example:
        >>> import torch
        >>> from longstate import ParallelHybrid
        >>> layer = ParallelHybrid(d_model=16, n_heads=4, d_state=8, ssm_head_dim=8)
        >>> y, (attention, ssm) = layer.forward_with_state(torch.randn(2, 10, 16), layer.initial_state(2))
        >>> y.shape, attention.k.shape, ssm.ssm.shape
        (torch.Size([2, 10, 16]), torch.Size([2, 10, 4, 4]), torch.Size([2, 4, 8, 8]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 8,
        *,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        rotary_base: float | None = 10_000.0,
        bias: bool = False,
        d_state: int = 128,
        d_conv: int = 4,
        d_inner: int | None = None,
        ssm_head_dim: int = 64,
        n_groups: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_floor: float = 0.0,
        dt_ceiling: float | None = None,
        gate: str = "none",
        norm_eps: float = 1e-5,
        conv_bias: bool = True,
        ssm_bias: bool = False,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.attention = Attention(
            d_model,
            n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            window=window,
            rotary_base=rotary_base,
            bias=bias,
        )
        self.ssm = Mamba2(
            d_model,
            d_state,
            d_conv=d_conv,
            d_inner=d_inner,
            head_dim=ssm_head_dim,
            n_groups=n_groups,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_floor=dt_floor,
            dt_ceiling=dt_ceiling,
            gate=gate,
            norm_eps=norm_eps,
            conv_bias=conv_bias,
            bias=ssm_bias,
        )

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel."""
        y = self.ssm(x, lengths=lengths, rate=rate, starts=starts)
        return self.attention(x, lengths=lengths, starts=starts) + y

    def initial_state(self, batch_size: int) -> ParallelHybridState:
        """Nothing seen, and systems at rest."""
        return self.attention.initial_state(batch_size), self.ssm.initial_state(batch_size)

    def forward_with_state(
        self,
        x: Tensor,
        state: ParallelHybridState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, ParallelHybridState]:
        """A chunk in parallel, from both states."""
        y, ssm = self.ssm.forward_with_state(x, state[1], lengths=lengths, rate=rate, starts=starts)
        seen, attention = self.attention.forward_with_state(x, state[0], lengths=lengths, starts=starts)
        return seen + y, (attention, ssm)

    def constants(self, *, rate: float | None = None) -> Mamba2Constants:
        """Those of Mamba-2."""
        return self.ssm.constants(rate=rate)

    def step(
        self,
        x_t: Tensor,
        state: ParallelHybridState,
        *,
        rate: float | Tensor | None = None,
        constants: Mamba2Constants | None = None,
    ) -> tuple[Tensor, ParallelHybridState]:
        """One element through both; `constants` already holds its rate."""
        y, ssm = self.ssm.step(x_t, state[1], rate=rate, constants=constants)
        seen, attention = self.attention.step(x_t, state[0])
        return seen + y, (attention, ssm)
