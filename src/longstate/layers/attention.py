"""Attention as a causal layer: its state is the keys and values that a later query may still see."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import (
    InputError,
    check_element,
    check_lengths,
    check_positive,
    check_sequence,
    check_starts,
    valid_steps,
    zero_padding,
)
from longstate.layers.base import CausalLayer, register_state
from longstate.layers.pieces import by_pieces, piece_length, shortest_piece
from longstate.layers.rotary import rotate


@register_state
class AttentionState(NamedTuple):
    """What was seen: k and v (batch, slots, kv heads, head_dim), the place of every slot, and the next place.

    Empty slots have position -1 and zeros, and stand first. With a window there are always window-1 slots, without one
    as many as the longest row has seen. `conv` are the last inputs of the convolution, (batch, d_conv-1, channels), or
    empty (batch, 0, 0) without one.
    """

    k: Tensor
    v: Tensor
    position: Tensor
    next: Tensor
    conv: Tensor


class Attention(CausalLayer[AttentionState]):
    """Causal softmax attention with grouped queries, over everything before or over a window.

        q, k, v = conv(W_q x, W_k x, W_v x);    y_i = W_o Σ_{j<=i} softmax_j(q_i·k_j / √head_dim) v_j

    Query head h shares key and value head h // (n_heads / n_kv_heads). With `window` an element sees itself and the
    window-1 before it, in time and memory linear in the length, and the state has a fixed size. In packed rows places
    count from 0 in every sequence.

    Args:
        d_model: Number of features.
        n_heads: Query heads.
        n_kv_heads: Key and value heads, a divisor of `n_heads`; as many as there are query heads if None.
        head_dim: Width of a head; d_model / n_heads if None.
        window: Elements that an element sees; all before it if None.
        rotary_base: Base of rotary positions, 10,000 in the paper; None for no positions at all, as in Jamba.
        rotary_dim: How many of a head's channels are turned, the first ones; all if None.
        d_conv: Taps of a causal convolution over q, k and v, as in the hybrids of Mamba-2's authors; 0 for none.
        scale: What multiplies q·k; head_dim^-1/2 if None.
        bias: Whether q, k, v and the output map have biases.

    Raises:
        InputError: If sizes do not fit.

    Source:
        Vaswani et al., arXiv 1706.03762, section 3.2; Ainslie et al., arXiv 2305.13245 (grouped queries); Su et al.,
        arXiv 2104.09864 (rotary positions); Beltagy et al., arXiv 2004.05150 (windows).

    Example:
        >>> import torch
        >>> from longstate import Attention
        >>> layer = Attention(d_model=8, n_heads=4, n_kv_heads=2)
        >>> y, state = layer.forward_with_state(torch.randn(2, 10, 8), layer.initial_state(2))
        >>> y.shape, state.k.shape
        (torch.Size([2, 10, 8]), torch.Size([2, 10, 2, 2]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 8,
        *,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        rotary_base: float | None = None,
        rotary_dim: int | None = None,
        d_conv: int = 0,
        scale: float | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, n_heads=n_heads)
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        check_positive(n_kv_heads=n_kv_heads)
        if n_heads % n_kv_heads:
            raise InputError(
                f"`n_kv_heads` is {n_kv_heads}, but a divisor of n_heads={n_heads} is needed; 1 shares one among all."
            )
        if head_dim is None and d_model % n_heads:
            raise InputError(
                f"`n_heads` is {n_heads}, but a divisor of d_model={d_model} is needed; choose one, or give head_dim."
            )
        head_dim = d_model // n_heads if head_dim is None else head_dim
        check_positive(head_dim=head_dim)
        if window is not None:
            check_positive(window=window)
        rotary_dim = head_dim if rotary_dim is None else rotary_dim
        if rotary_base is not None and (rotary_dim % 2 or not 0 < rotary_dim <= head_dim or not rotary_base > 1):
            raise InputError(
                f"`rotary_base` is {rotary_base} with head_dim {head_dim}, but a base above 1 and an even width within "
                f"it are needed, and rotary_dim is {rotary_dim}; use 10_000.0 and an even head_dim."
            )
        if d_conv:
            check_positive(d_conv=d_conv)
        if scale is not None and not scale > 0:
            raise InputError(f"`scale` is {scale}, but a positive number is needed; None means head_dim^-1/2.")
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads
        self.head_dim = head_dim
        self.window = window
        self.rotary_base = rotary_base
        self.rotary_dim = rotary_dim
        self.query_scale = 1.0 if scale is None else scale * math.sqrt(head_dim)
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=bias)
        self.conv_weight = self.conv_bias = None
        if d_conv:
            channels, bound = (n_heads + 2 * n_kv_heads) * head_dim, d_conv**-0.5
            self.conv_weight = nn.Parameter((torch.rand(channels, d_conv) * 2 - 1) * bound)
            self.conv_bias = nn.Parameter((torch.rand(channels) * 2 - 1) * bound)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence in parallel; `rate` changes nothing, since places are counted, not timed."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        if self._length_of_pieces(x) is not None:
            return self.forward_with_state(x, self.initial_state(len(x)), lengths=lengths, starts=starts)[0]
        qkv = self._project(zero_padding(x, lengths))
        if self.conv_weight is not None:
            qkv, _ = ops.causal_conv1d(qkv, self.conv_weight, self.conv_bias, lengths=lengths, starts=starts)
        if starts is None:
            q, k, v = self._heads(qkv, torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]))
            return self._out(ops.attention(q, k, v, window=self.window))
        place, since = _places(starts, starts.new_zeros(len(starts), dtype=torch.int64))
        q, k, v = self._heads(qkv, place - since)
        return self._out(ops.attention(q, k, v, place, place, since, window=self.window))

    def initial_state(self, batch_size: int) -> AttentionState:
        """Nothing seen."""
        slots = 0 if self.window is None else self.window - 1
        weight = self.k_proj.weight
        empty = weight.new_zeros(batch_size, slots, self.n_kv_heads, self.head_dim)
        position = torch.full((batch_size, slots), -1, dtype=torch.int64, device=weight.device)
        conv = weight.new_zeros(batch_size, 0, 0)
        if self.conv_weight is not None:
            conv = weight.new_zeros(batch_size, self.conv_weight.shape[1] - 1, self.conv_weight.shape[0])
        return AttentionState(empty, empty.clone(), position, position.new_zeros(batch_size), conv)

    def forward_with_state(
        self,
        x: Tensor,
        state: AttentionState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """A chunk in parallel over itself and what was seen before."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        if self._length_of_pieces(x) is None:
            return self._piece(x, state, lengths, 1.0, starts)
        return by_pieces(self._piece, x, state, lengths, 1.0, starts, **self._sizes())

    def _length_of_pieces(self, x: Tensor) -> int | None:
        """Without a window the state is all that was seen: pieces would be no smaller than the whole."""
        return None if self.window is None else piece_length(x, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Of the pieces of a long sequence: scores of a window before and of the block, for every head."""
        window = self.window or 0
        return {"width": 2 * self.n_heads * window + 4 * self.d_model, "shortest": shortest_piece(window)}

    def _piece(
        self, x: Tensor, state: AttentionState, lengths: Tensor | None, rate: object, starts: Tensor | None
    ) -> tuple[Tensor, AttentionState]:
        batch, length = x.shape[:2]
        if length == 0:
            return x, state
        qkv, conv = self._project(zero_padding(x, lengths)), state.conv
        if self.conv_weight is not None:
            qkv, conv = ops.causal_conv1d(qkv, self.conv_weight, self.conv_bias, conv, lengths=lengths, starts=starts)
        starts = x.new_zeros(batch, length, dtype=torch.bool) if starts is None else starts
        count = torch.full((batch,), length, device=x.device) if lengths is None else lengths.to(torch.int64)
        place, since = _places(starts, state.next)
        q, k, v = self._heads(qkv, place - since)
        k, v = torch.cat([state.k, k.to(state.k.dtype)], dim=1), torch.cat([state.v, v.to(state.v.dtype)], dim=1)
        seen = place if lengths is None else place.masked_fill(~valid_steps(lengths, length), -1)
        seen = torch.cat([state.position, seen], dim=1)
        y = ops.attention(q, k.to(q.dtype), v.to(q.dtype), place, seen, since, window=self.window)
        begun = torch.where(count > 0, since.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0], 0)
        new = _ordered(k, v, seen - begun[:, None], state.next + count - begun, conv)
        return self._out(y), _last(new, None if self.window is None else self.window - 1)

    def constants(self, *, rate: float | None = None) -> None:
        """None are needed."""

    def step(
        self, x_t: Tensor, state: AttentionState, *, rate: float | Tensor | None = None, constants: None = None
    ) -> tuple[Tensor, AttentionState]:
        """One element over itself and what was seen before."""
        check_element(x_t, self.d_model)
        qkv, conv = self._project(x_t), state.conv
        if self.conv_weight is not None:
            qkv, conv = ops.causal_conv1d_step(qkv, conv, self.conv_weight, self.conv_bias)
        place = state.next[:, None]
        q, k, v = self._heads(qkv[:, None], place)
        k, v = torch.cat([state.k, k.to(state.k.dtype)], dim=1), torch.cat([state.v, v.to(state.v.dtype)], dim=1)
        seen = torch.cat([state.position, place], dim=1)
        y = ops.attention(q, k.to(q.dtype), v.to(q.dtype), place, seen, window=self.window)
        drop = 0 if self.window is None else 1
        return self._out(y)[:, 0], AttentionState(k[:, drop:], v[:, drop:], seen[:, drop:], state.next + 1, conv)

    def _project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side."""
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def _heads(self, qkv: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (batch, length, heads, head_dim), turned if the layer has positions."""
        heads = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
        q, k, v = qkv.unflatten(-1, (-1, self.head_dim)).split(heads, dim=-2)
        if self.rotary_base is not None:
            q, k = self._turned(q, place, self.rotary_base), self._turned(k, place, self.rotary_base)
        return (q if self.query_scale == 1.0 else q * self.query_scale), k, v

    def _turned(self, x: Tensor, place: Tensor, base: float) -> Tensor:
        if self.rotary_dim == self.head_dim:
            return rotate(x, place, base)
        return torch.cat([rotate(x[..., : self.rotary_dim], place, base), x[..., self.rotary_dim :]], dim=-1)

    def _out(self, y: Tensor) -> Tensor:
        return self.o_proj(y.flatten(2))


def _places(starts: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Where elements stand, counted on from `first` (batch,), and where the sequence of each began."""
    place = first[:, None] + torch.arange(starts.shape[1], device=starts.device)
    return place, torch.where(starts, place, 0).cummax(dim=1).values


def _ordered(k: Tensor, v: Tensor, position: Tensor, next_place: Tensor, conv: Tensor) -> AttentionState:
    """The slots in the order of their places, empty ones first and zero."""
    position, order = position.clamp(min=-1).sort(dim=1, stable=True)
    index = order[:, :, None, None].expand_as(k)
    filled = (position >= 0)[:, :, None, None]
    k, v = (torch.where(filled, part.gather(1, index), part.new_zeros(())) for part in (k, v))
    return AttentionState(k, v, position, next_place, conv)


def _last(state: AttentionState, slots: int | None) -> AttentionState:
    """The last `slots` of a state, or all but those that are empty in every row."""
    if slots is None:
        if torch.compiler.is_compiling() or state.position.is_meta:
            return state
        slots = int((state.position >= 0).sum(1).max()) if len(state.position) else 0
    first = state.position.shape[1] - slots
    # Copies: views would keep the whole chunk as long as the state lives.
    k, v, position = (part[:, first:].clone() for part in state[:3])
    return AttentionState(k, v, position, state.next, state.conv)
