"""Long convolutions whose taps are the parameters."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate import ops
from longstate._checks import (
    InputError,
    check_choice,
    check_element,
    check_lengths,
    check_no_rate,
    check_positive,
    check_sequence,
    check_starts,
)
from longstate.layers.base import CausalLayer, OptimizerRule, recurrent_dtype, register_state
from longstate.layers.pieces import by_pieces, piece_length, shortest_piece
from longstate.layers.pointwise import build_output

INITS = ("random", "double_exponential")
SMOOTHINGS = ("none", "time", "frequency")


@register_state
class LongConvState(NamedTuple):
    """The inputs that the filters still reach, oldest first: (batch, filter_length - 1, d_model)."""

    tail: Tensor


class LongConvConstants(NamedTuple):
    """Taps of the filters in the order of time: (channels, filter_length, d_model)."""

    taps: Tensor


class LongConv(CausalLayer[LongConvState]):
    """A convolution as long as the sequence, learned tap by tap, and a gated linear map over features.

        y_t = sum_l K_l x_{t-l} + D x_t,        K = squash(smooth(kernel)),    squash(k) = sign(k) max(|k| - λ, 0)

    There is no memory beyond `filter_length` taps, in any view, and inputs may have any length. Taps within the
    squash are zero and get no gradient: with λ above all initial taps (2e-3 is their standard deviation for
    init="random") the layer never learns.

    Args:
        d_model: Number of features.
        filter_length: Taps of each filter; as a rule the length of the training sequences.
        init: "random", Normal(0, 0.002²), or "double_exponential", Normal(0, 0.02²) under decays that run from slow
            in the first feature to fast in the last.
        squash: λ, how much every tap loses.
        smooth: "none", a moving average over "time", or a Gaussian window over "frequency".
        smooth_width: Taps or frequencies in that average; odd.
        channels: Filters of each feature; the output stage mixes them.
        kernel_dropout: Share of the taps dropped in training.
        dropout: Share of activations dropped in training, once, before the output map.
        output: "glu" (as published), or another name of `build_output`; "none" is the bare convolution.

    Raises:
        InputError: If a size or a name is not usable, or if a `rate` is given: the layer counts elements.

    Source:
        Fu et al.: Simple Hardware-Efficient Long Convolutions for Sequence Modeling, arXiv 2302.06646, section 3.

    Example:
        >>> import torch
        >>> from longstate import LongConv
        >>> layer = LongConv(d_model=4, filter_length=64)
        >>> y, state = layer.forward_with_state(torch.randn(2, 100, 4), layer.initial_state(2))
        >>> y.shape, state.tail.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 63, 4]))
    """

    optimizer_rules: ClassVar[Mapping[str, OptimizerRule]] = {"kernel": OptimizerRule(max_lr=1e-3, weight_decay=0.0)}

    def __init__(
        self,
        d_model: int,
        *,
        filter_length: int = 1024,
        init: str = "random",
        squash: float = 0.003,
        smooth: str = "none",
        smooth_width: int = 7,
        channels: int = 1,
        kernel_dropout: float = 0.0,
        dropout: float = 0.0,
        output: str = "glu",
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, filter_length=filter_length, smooth_width=smooth_width, channels=channels)
        check_choice(init, INITS, name="init")
        check_choice(smooth, SMOOTHINGS, name="smooth")
        _check_filter(squash, smooth_width)
        self.d_model = d_model
        self.filter_length = filter_length
        self.channels = channels
        self.squash = squash
        self.smooth = smooth
        self.smooth_width = smooth_width
        self.kernel = nn.Parameter(_initial(init, channels, d_model, filter_length))
        self.D = nn.Parameter(torch.randn(channels, d_model))
        self.kernel_dropout = nn.Dropout(kernel_dropout)
        self.output = build_output(output, channels * d_model, d_model, dropout)

    def filters(self) -> Tensor:
        """The smoothed and squashed taps with D in the first, the present first: (channels, d_model, filter_length)."""
        K = self.kernel.to(recurrent_dtype(self.kernel.dtype))
        if self.smooth == "time":
            K = _moving_sum(K, K.new_full((self.smooth_width,), 1 / self.smooth_width))
        elif self.smooth == "frequency":
            distance = torch.arange(self.smooth_width, device=K.device, dtype=K.dtype) - self.smooth_width // 2
            weights = torch.exp(-0.5 * distance**2)
            spectrum = torch.view_as_real(torch.fft.rfft(K))
            smoothed = torch.stack([_moving_sum(part, weights) for part in spectrum.unbind(-1)], dim=-1)
            K = torch.fft.irfft(torch.view_as_complex(smoothed), n=self.filter_length)
        K = self.kernel_dropout(K.sign() * F.relu(K.abs() - self.squash))
        return torch.cat([K[..., :1] + self.D.to(K.dtype)[..., None], K[..., 1:]], dim=-1)

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
        check_no_rate(rate, layer="LongConv")
        if piece_length(x, **self._sizes()) is not None:
            return self.forward_with_state(x, self.initial_state(len(x)), lengths=lengths, starts=starts)[0]
        y = ops.long_conv(x, self.filters(), lengths=lengths, starts=starts)
        return self.output(y.flatten(2))

    def initial_state(self, batch_size: int) -> LongConvState:
        """An empty window."""
        return LongConvState(self.kernel.new_zeros(batch_size, self.filter_length - 1, self.d_model))

    def forward_with_state(
        self,
        x: Tensor,
        state: LongConvState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, LongConvState]:
        """A chunk by convolution with the window before it, and the window after it."""
        check_sequence(x, self.d_model)
        check_no_rate(rate, layer="LongConv")
        check_lengths(lengths, x)
        check_starts(starts, x)
        filters = self.filters()

        def piece(
            x: Tensor, state: LongConvState, lengths: Tensor | None, rate: object, starts: Tensor | None
        ) -> tuple[Tensor, LongConvState]:
            y, tail = ops.long_conv_scan(x, filters, state.tail, lengths=lengths, starts=starts)
            return self.output(y.flatten(2)), LongConvState(tail)

        return by_pieces(piece, x, state, lengths, 1.0, starts, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Of the pieces of a long sequence."""
        return {"width": 4 * self.kernel.numel() // self.filter_length, "shortest": shortest_piece(self.filter_length)}

    def constants(self, *, rate: float | None = None) -> LongConvConstants:
        """The taps of the filters."""
        check_no_rate(rate, layer="LongConv")
        return LongConvConstants(ops.long_conv_constants(self.filters()))

    def step(
        self,
        x_t: Tensor,
        state: LongConvState,
        *,
        rate: float | Tensor | None = None,
        constants: LongConvConstants | None = None,
    ) -> tuple[Tensor, LongConvState]:
        """One element: a product of the window with the filters."""
        check_element(x_t, self.d_model)
        check_no_rate(rate, layer="LongConv")
        taps = (self.constants() if constants is None else constants).taps
        y, tail = ops.long_conv_step(x_t, state.tail, taps)
        return self.output(y.flatten(1)), LongConvState(tail)


def _initial(init: str, channels: int, d_model: int, filter_length: int) -> Tensor:
    """Taps at the start (channels, d_model, filter_length)."""
    noise = torch.randn(channels, d_model, filter_length)
    if init == "random":
        return 0.002 * noise
    share = torch.arange(filter_length) / filter_length
    speed = float(d_model // 2) ** (torch.arange(d_model) / d_model)
    return 0.02 * noise * torch.exp(-speed[:, None] * share)


def _moving_sum(x: Tensor, weights: Tensor) -> Tensor:
    """`sum_j weights_j x_{i+j-width/2}` along the last axis, which counts as 0 outside."""
    reach, count = len(weights) // 2, x.shape[-1]
    padded = F.pad(x, (reach, reach))
    total = torch.zeros_like(x)
    for j in range(len(weights)):
        total = total + weights[j] * padded[..., j : j + count]
    return total


def _check_filter(squash: float, smooth_width: int) -> None:
    if not squash >= 0:
        raise InputError(f"`squash` is {squash}, but a number from 0 upwards is needed; 0 leaves the taps as they are.")
    if smooth_width % 2 == 0:
        raise InputError(
            f"`smooth_width` is {smooth_width}, but an odd number is needed, so that the average has a middle; "
            f"use {smooth_width + 1}."
        )
