"""Hyena: gates and long convolutions in turn, with filters that a small network writes."""

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import (
    InputError,
    check_element,
    check_lengths,
    check_no_rate,
    check_positive,
    check_sequence,
    check_starts,
    zero_padding,
)
from longstate.layers.base import SLOW, CausalLayer, OptimizerRule, register_state
from longstate.layers.dropout import Dropout
from longstate.layers.lti import as_parameter
from longstate.layers.pieces import by_pieces, piece_length, shortest_piece


@register_state
class HyenaState(NamedTuple):
    """The inputs that the filters still reach, oldest first.

    short: Inputs of the short convolution (batch, short_width - 1, (order + 1) d_model).
    long: Inputs of each long convolution (batch, order - 1, filter_length - 1, d_model).
    """

    short: Tensor
    long: Tensor


class HyenaConstants(NamedTuple):
    """Taps of the long filters in the order of time: (order - 1, filter_length, d_model)."""

    taps: Tensor


class Hyena(CausalLayer[HyenaState]):
    """Data-controlled gates between long convolutions whose filters are a function of their positions.

        x_0, .., x_{order-1}, v = short convolution of W x + b
        v <- K_i * (v x_i) + bias_i (v x_i)    for x_i = x_{order-1}, .., x_1,        y = W_out (v x_0) + b_out

    The filters K_i are written by a network of sines (`ops.implicit_filter`) and have `filter_length` taps: there is
    no memory beyond them, in any view, and inputs may have any length. A stream keeps a window of as many elements.

    Args:
        d_model: Number of features.
        filter_length: Taps of the long filters; as a rule the length of the training sequences.
        order: Number of gates, at least 2; there are order - 1 long convolutions.
        filter_order: Width of the network that writes the filters.
        emb_dim: Numbers that describe a position to the network: odd, at least 3 (time, sines and cosines).
        num_inner_mlps: Layers of that network between its first and its last.
        frequency: Of its sines at the start: the larger, the rougher the filters.
        shift: Added to the decay of the filters, so that far taps do not vanish.
        fast_decay: Share of the filter after which the fastest feature has decayed to `target`.
        slow_decay: The same for the slowest feature.
        target: What is left of a filter there.
        short_width: Taps of the short convolution.
        dropout: Share of the inputs of the long convolutions dropped in training.

    Raises:
        InputError: If a size is not usable, or if a `rate` is given: the layer counts elements.

    Source:
        Poli et al.: Hyena Hierarchy, arXiv 2302.10866, equations 4, 6, 7 and appendix D.3.

    Example:
        >>> import torch
        >>> from longstate import Hyena
        >>> layer = Hyena(d_model=4, filter_length=64)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.short.shape, state.long.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 2, 12]), torch.Size([2, 1, 63, 4]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {
        "z": OptimizerRule(max_lr=1e-5, weight_decay=0.0),
        "frequency": SLOW,
        "filter_first": SLOW,
        "filter_first_bias": SLOW,
        "filter_inner": SLOW,
        "filter_inner_bias": SLOW,
        "filter_last": SLOW,
    }

    deltas: Tensor

    def __init__(
        self,
        d_model: int,
        *,
        filter_length: int = 1024,
        order: int = 2,
        filter_order: int = 64,
        emb_dim: int = 3,
        num_inner_mlps: int = 2,
        frequency: float = 1.0,
        shift: float = 0.0,
        fast_decay: float = 0.3,
        slow_decay: float = 1.5,
        target: float = 1e-2,
        short_width: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(
            d_model=d_model,
            filter_length=filter_length,
            filter_order=filter_order,
            num_inner_mlps=num_inner_mlps,
            short_width=short_width,
        )
        _check_filter(order, emb_dim, fast_decay, slow_decay, target)
        self.d_model = d_model
        self.filter_length = filter_length
        self.order = order
        self.shift = shift
        width = d_model * (order + 1)
        self.in_proj = nn.Linear(d_model, width)
        self.short_weight = nn.Parameter(_uniform(width, short_width, fan_in=short_width))
        self.short_bias = nn.Parameter(_uniform(width, fan_in=short_width))
        self.z = nn.Parameter(as_parameter(_positions(filter_length, emb_dim)))
        self.frequency = nn.Parameter(torch.full((filter_order,), float(frequency)))
        self.filter_first = nn.Parameter(_uniform(filter_order, emb_dim, fan_in=emb_dim))
        self.filter_first_bias = nn.Parameter(_uniform(filter_order, fan_in=emb_dim))
        self.filter_inner = nn.Parameter(_uniform(num_inner_mlps, filter_order, filter_order, fan_in=filter_order))
        self.filter_inner_bias = nn.Parameter(_uniform(num_inner_mlps, filter_order, fan_in=filter_order))
        self.filter_last = nn.Parameter(_uniform((order - 1) * d_model, filter_order, fan_in=filter_order))
        self.bias = nn.Parameter(torch.randn(order - 1, d_model))
        ends = math.log(target) / slow_decay, math.log(target) / fast_decay
        deltas = torch.linspace(*ends, (order - 1) * d_model, dtype=torch.float64)
        self.register_buffer("deltas", as_parameter(deltas))
        self.dropout = Dropout(dropout)
        self.out_proj = nn.Linear(d_model, d_model)

    def filters(self, length: int | None = None) -> Tensor:
        """The long filters with the bias in their first tap, the present first.

        Args:
            length: How many of their taps; all `filter_length` if None.

        Returns:
            (order - 1, d_model, length), float32 at least.
        """
        t = torch.linspace(0, 1, self.filter_length, dtype=torch.float64, device=self.z.device)
        K = ops.implicit_filter(
            self.z[:length],
            t[:length],
            (self.filter_first, self.filter_first_bias),
            (self.filter_inner, self.filter_inner_bias),
            self.filter_last,
            self.frequency,
            self.deltas.abs(),
            self.shift,
        ).unflatten(0, (self.order - 1, self.d_model))
        return torch.cat([K[..., :1] + self.bias.to(K.dtype)[..., None], K[..., 1:]], dim=-1)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence by convolution."""
        check_sequence(x, self.d_model)
        check_no_rate(rate, layer="Hyena")
        if piece_length(x, **self._sizes()) is not None:
            return self.forward_with_state(x, self.initial_state(len(x)), lengths=lengths, starts=starts)[0]
        mixed, _ = self._short(x, None, lengths, starts)
        first, *gates, v = mixed.chunk(self.order + 1, dim=-1)
        filters = self.filters(min(max(x.shape[1], 1), self.filter_length))
        for K, gate in zip(filters, reversed(gates), strict=True):
            v = ops.long_conv(self.dropout(v * gate), K[None], lengths=lengths, starts=starts).squeeze(2)
        return self.out_proj(v * first)

    def initial_state(self, batch_size: int) -> HyenaState:
        """Empty windows."""
        width, taps = self.short_weight.shape
        return HyenaState(
            self.short_weight.new_zeros(batch_size, taps - 1, width),
            self.short_weight.new_zeros(batch_size, self.order - 1, self.filter_length - 1, self.d_model),
        )

    def forward_with_state(
        self,
        x: Tensor,
        state: HyenaState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, HyenaState]:
        """A chunk by convolution with the windows before it, and the windows after it."""
        check_sequence(x, self.d_model)
        check_no_rate(rate, layer="Hyena")
        check_lengths(lengths, x)
        check_starts(starts, x)
        filters = self.filters()

        def piece(
            x: Tensor, state: HyenaState, lengths: Tensor | None, rate: object, starts: Tensor | None
        ) -> tuple[Tensor, HyenaState]:
            mixed, short = self._short(x, state.short, lengths, starts)
            first, *gates, v = mixed.chunk(self.order + 1, dim=-1)
            windows = []
            for K, gate, tail in zip(filters, reversed(gates), state.long.unbind(1), strict=True):
                gated = self.dropout(v * gate)
                y, window = ops.long_conv_scan(gated, K[None], tail, lengths=lengths, starts=starts)
                v = y.squeeze(2)
                windows.append(window)
            return self.out_proj(v * first), HyenaState(short, torch.stack(windows, dim=1))

        return by_pieces(piece, x, state, lengths, 1.0, starts, **self._sizes())

    def constants(self, *, rate: float | None = None) -> HyenaConstants:
        """The taps of the long filters."""
        check_no_rate(rate, layer="Hyena")
        return HyenaConstants(ops.long_conv_constants(self.filters()))

    def step(
        self,
        x_t: Tensor,
        state: HyenaState,
        *,
        rate: float | Tensor | None = None,
        constants: HyenaConstants | None = None,
    ) -> tuple[Tensor, HyenaState]:
        """One element: a product of each window with its filter."""
        check_element(x_t, self.d_model)
        check_no_rate(rate, layer="Hyena")
        taps = (self.constants() if constants is None else constants).taps
        mixed, short = ops.causal_conv1d_step(self.in_proj(x_t), state.short, self.short_weight, self.short_bias)
        first, *gates, v = mixed.chunk(self.order + 1, dim=-1)
        windows = []
        for K, gate, tail in zip(taps, reversed(gates), state.long.unbind(1), strict=True):
            y, window = ops.long_conv_step(self.dropout(v * gate), tail, K[None])
            v = y.squeeze(1)
            windows.append(window)
        return self.out_proj(v * first), HyenaState(short, torch.stack(windows, dim=1))

    def _sizes(self) -> dict[str, int]:
        """Of the pieces of a long sequence."""
        return {"width": 2 * len(self.short_weight), "shortest": shortest_piece(self.filter_length)}

    def _short(
        self, x: Tensor, tail: Tensor | None, lengths: Tensor | None, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Gates and values after the short convolution (batch, length, (order + 1) d_model), and its tail."""
        check_lengths(lengths, x)
        inner = self.in_proj(zero_padding(x, lengths))
        return ops.causal_conv1d(inner, self.short_weight, self.short_bias, tail, lengths=lengths, starts=starts)


def _positions(filter_length: int, emb_dim: int) -> Tensor:
    """What the network knows of a position l at the start: t, cos(f w), -sin(f w) with t = l / (L - 1), w = 2 pi l / L.

    The bands f are (emb_dim - 1) / 2 numbers from 1e-4 upwards in steps near 1: (filter_length, emb_dim), float64.
    """
    bands = (emb_dim - 1) // 2
    t = torch.linspace(0, 1, filter_length, dtype=torch.float64)
    w = 2 * math.pi * torch.arange(filter_length, dtype=torch.float64) / filter_length
    f = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    phase = w[:, None] * f
    return torch.cat([t[:, None], phase.cos(), -phase.sin()], dim=1)


def _uniform(*shape: int, fan_in: int) -> Tensor:
    """What `nn.Linear` and `nn.Conv1d` start with: uniform in +-1/sqrt(fan_in)."""
    return (2 * torch.rand(*shape) - 1) / math.sqrt(fan_in)


def _check_filter(order: int, emb_dim: int, fast_decay: float, slow_decay: float, target: float) -> None:
    if not isinstance(order, int) or order < 2:
        raise InputError(f"`order` is {order}, but at least 2 is needed: one long convolution and the gates around it.")
    if not isinstance(emb_dim, int) or emb_dim < 3 or emb_dim % 2 == 0:
        raise InputError(
            f"`emb_dim` is {emb_dim}, but an odd number from 3 upwards is needed: time, and a sine with each cosine."
        )
    if not (0 < target < 1 and fast_decay > 0 and slow_decay > 0):
        raise InputError(
            f"`target` is {target}, `fast_decay` {fast_decay} and `slow_decay` {slow_decay}, but 0 < target < 1 and "
            "positive shares of the filter are needed; the published values are 0.01, 0.3 and 1.5."
        )
