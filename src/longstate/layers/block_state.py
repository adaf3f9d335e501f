"""The Block-State Transformer: attention in windows, whose past reaches them through a state space."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from longstate import ops
from longstate._checks import (
    InputError,
    check_choice,
    check_element,
    check_lengths,
    check_positive,
    check_sequence,
    check_starts,
    valid_steps,
    zero_padding,
)
from longstate.layers.base import CausalLayer, register_state
from longstate.layers.lti import LTIState
from longstate.layers.pieces import by_pieces, piece_length, shortest_piece
from longstate.layers.rotary import rotate
from longstate.layers.s4 import S4
from longstate.layers.s4d import S4D

VARIANTS = ("single_head", "multi_head", "multi_filter")
SYSTEMS = ("s4d", "s4")
_INITS = {"s4d": "lin", "s4": "legs"}
_RULES = {"s4d": "zoh", "s4": "bilinear"}


@register_state
class BlockState(NamedTuple):
    """Of the Block-State Transformer: the system, and what the window in progress has seen.

    ssm as of the inner layer; k and v (batch, window - 1, heads, head_dim) of the elements of the window, the last one
    last and zeros before; the contexts of the window (batch, filters, d_model), none but for "multi_filter"; and the
    place of the next element in its sequence.
    """

    ssm: Tensor
    k: Tensor
    v: Tensor
    context: Tensor
    next: Tensor


class BlockStateTransformer(CausalLayer[BlockState]):
    """Causal attention inside windows, beside attention to contexts that a state space carries over all windows.

        c = ssm(x);    q, k, v = W x of an element and those before it in its window;    q', k', v' the same of contexts
        y_i = W_o [Σ_j softmax_j(q_i·k_j / √head_dim) v_j ; Σ_s softmax_s(q'_i·k'_s / √head_dim) v'_s]

    The variant says which contexts an element sees. "single_head": c_j of its window, j <= i, lifted to all heads by
    one map. "multi_head": the same, with an output filter of the state space for each head. "multi_filter": `n_filters`
    outputs of the state space at the last element of the window before, all of them at every element, told apart by
    learned vectors; in the first window a learned context stands in their place.

    Windows are counted from the beginning of a sequence, and the state has a fixed size. It is the mixer of a block:
    `Residual` brings the norm and the sum, `FeedForward` the rest of a Transformer's layer. `rate` is that of the inner
    state space; windows count elements.

    Args:
        d_model: Number of features.
        window: Elements of a window.
        variant: Which contexts there are: "single_head", "multi_head" or "multi_filter".
        n_heads: Heads of the attention to the window, and as many again of that to the contexts.
        n_filters: Contexts of a window with "multi_filter".
        head_dim: Width of a head; d_model / n_heads if None.
        rotary_base: Base of rotary positions inside a window; None for no positions. (The paper's are T5's biases.)
        bias: Whether queries, keys, values and the output map have biases.
        layer: The state space: "s4d" or "s4".
        d_state: Real state size N of each feature; even.
        init: Modes at the start, by a name that the layer knows; "lin" for S4D and "legs" for S4 if None.
        rule: Discretisation; "zoh" for S4D and "bilinear" for S4 if None.
        n_ssm: Number of different (A, B); a divisor of `d_model`. All free if None, all tied if 1.
        dt_min: Smallest initial step.
        dt_max: Largest initial step.

    Raises:
        InputError: If a size or a name is not usable.

    Source:
        Fathi et al.: Block-State Transformers, arXiv 2306.09539, section 3.

    Example:
        >>> import torch
        >>> from longstate import BlockStateTransformer
        >>> layer = BlockStateTransformer(d_model=8, window=4, n_heads=2, variant="multi_filter", n_filters=3)
        >>> y, state = layer.forward_with_state(torch.randn(2, 10, 8), layer.initial_state(2))
        >>> y.shape, state.k.shape, state.context.shape
        (torch.Size([2, 10, 8]), torch.Size([2, 3, 2, 4]), torch.Size([2, 3, 8]))
    """

    def __init__(
        self,
        d_model: int,
        window: int = 512,
        *,
        variant: str = "single_head",
        n_heads: int = 8,
        n_filters: int = 8,
        head_dim: int | None = None,
        rotary_base: float | None = 10_000.0,
        bias: bool = False,
        layer: str = "s4d",
        d_state: int = 64,
        init: str | None = None,
        rule: str | None = None,
        n_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, window=window, n_heads=n_heads, n_filters=n_filters)
        check_choice(variant, VARIANTS, name="variant")
        check_choice(layer, SYSTEMS, name="layer")
        if head_dim is None and d_model % n_heads:
            raise InputError(
                f"`n_heads` is {n_heads}, but a divisor of d_model={d_model} is needed; choose one, or give head_dim."
            )
        head_dim = d_model // n_heads if head_dim is None else head_dim
        check_positive(head_dim=head_dim)
        if rotary_base is not None and (head_dim % 2 or not rotary_base > 1):
            raise InputError(
                f"`rotary_base` is {rotary_base} with head_dim {head_dim}, but a base above 1 and an even width are "
                "needed; use 10_000.0 and an even head_dim, or None for no positions."
            )
        self.d_model = d_model
        self.window = window
        self.variant = variant
        self.n_heads = n_heads
        self.head_dim = head_dim
        self.rotary_base = rotary_base
        self.channels = {"single_head": 1, "multi_head": n_heads, "multi_filter": n_filters}[variant]
        self.ssm = (S4D if layer == "s4d" else S4)(
            d_model,
            d_state,
            init=_INITS[layer] if init is None else init,
            rule=_RULES[layer] if rule is None else rule,
            channels=self.channels,
            n_ssm=n_ssm,
            dt_min=dt_min,
            dt_max=dt_max,
            output="linear",
        )
        self.ssm.output = nn.Identity()  # the channels are the contexts, side by side
        d_inner = n_heads * head_dim
        self.q_proj = nn.Linear(d_model, 2 * d_inner, bias=bias)
        self.k_proj = nn.Linear(d_model, d_inner, bias=bias)
        self.v_proj = nn.Linear(d_model, d_inner, bias=bias)
        maps = n_heads if variant == "multi_head" else 1
        self.context_k = nn.Parameter(_uniform(maps, d_inner // maps, d_model))
        self.context_v = nn.Parameter(_uniform(maps, d_inner // maps, d_model))
        self.filter_vectors, self.first_context = None, None
        if variant == "multi_filter":
            self.filter_vectors = nn.Parameter(0.02 * torch.randn(n_filters, d_model))
            self.first_context = nn.Parameter(0.02 * torch.randn(n_filters, d_model))
        self.o_proj = nn.Linear(2 * d_inner, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """The whole sequence, all windows in parallel."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        if piece_length(x, **self._sizes()) is not None:
            state = self.initial_state(len(x))
            return self.forward_with_state(x, state, lengths=lengths, rate=rate, starts=starts)[0]
        x = zero_padding(x, lengths)
        c = self.ssm(x, lengths=lengths, rate=rate, starts=starts)
        starts = _valid(starts, lengths)
        q, k, v = self._heads(x, c, ops.window_index(x, self.window, None, starts)[0])
        return self._attend(q, k, v, c, None, starts)

    def initial_state(self, batch_size: int) -> BlockState:
        """A system at rest, and a window that has seen nothing."""
        weight = self.k_proj.weight
        heads = self.n_heads if self.variant == "multi_filter" else 2 * self.n_heads
        slots = weight.new_zeros(batch_size, self.window - 1, heads, self.head_dim)
        filters = self.channels if self.variant == "multi_filter" else 0
        context = weight.new_zeros(batch_size, filters, self.d_model)
        place = torch.zeros(batch_size, dtype=torch.int64, device=weight.device)
        return BlockState(self.ssm.initial_state(batch_size).x, slots, slots.clone(), context, place)

    def forward_with_state(
        self,
        x: Tensor,
        state: BlockState,
        *,
        lengths: Tensor | None = None,
        rate: float | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, BlockState]:
        """A chunk in parallel, from any place in a window."""
        check_sequence(x, self.d_model)
        check_lengths(lengths, x)
        check_starts(starts, x)
        return by_pieces(self._piece, x, state, lengths, rate, starts, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Of the pieces of a long sequence: scores of two windows of keys, for every head."""
        return {"width": 4 * self.n_heads * self.window + 4 * self.d_model, "shortest": shortest_piece(self.window)}

    def _piece(
        self,
        x: Tensor,
        state: BlockState,
        lengths: Tensor | None,
        rate: float | Tensor | None,
        starts: Tensor | None,
    ) -> tuple[Tensor, BlockState]:
        x = zero_padding(x, lengths)
        c, ssm = self.ssm.forward_with_state(x, LTIState(state.ssm), lengths=lengths, rate=rate, starts=starts)
        if x.shape[1] == 0:
            return x, state
        starts = _valid(starts, lengths)
        place, _ = ops.window_index(x, self.window, state.next % self.window, starts)
        q, k, v = self._heads(x, c, place)
        y = self._attend(q, k, v, c, state, starts)
        return y, self._after(k, v, c, state, ssm, lengths, starts)

    def constants(self, *, rate: float | None = None) -> ops.StepConstants:
        """Those of the inner state space."""
        return self.ssm.constants(rate=rate)

    def step(
        self,
        x_t: Tensor,
        state: BlockState,
        *,
        rate: float | Tensor | None = None,
        constants: ops.StepConstants | None = None,
    ) -> tuple[Tensor, BlockState]:
        """One element over what its window has seen."""
        check_element(x_t, self.d_model)
        c, ssm = self.ssm.step(x_t, LTIState(state.ssm), rate=rate, constants=constants)
        c = c[:, None]
        q, k, v = self._heads(x_t[:, None], c, (state.next % self.window)[:, None])
        y = self._attend(q, k, v, c, state, None)
        return y[:, 0], self._after(k, v, c, state, ssm, None, None)

    def _heads(self, x: Tensor, c: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, length, 2 heads, head_dim), and the keys and values that a later element may see."""
        q, k, v = (proj(x).unflatten(-1, (-1, self.head_dim)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.variant != "multi_filter":
            k = torch.cat([k, self._lift(c.to(x.dtype), self.context_k)], dim=2)
            v = torch.cat([v, self._lift(c.to(x.dtype), self.context_v)], dim=2)
        if self.rotary_base is not None:
            n = k.shape[2]
            turned = rotate(q[:, :, :n], place, self.rotary_base)
            q, k = torch.cat([turned, q[:, :, n:]], dim=2), rotate(k, place, self.rotary_base)
        return q, k, v

    def _lift(self, c: Tensor, weight: Tensor) -> Tensor:
        """Contexts (..., channels * d_model), or (..., d_model), as heads (..., heads, head_dim)."""
        if len(weight) == 1:
            return nn.functional.linear(c, weight[0]).unflatten(-1, (self.n_heads, self.head_dim))
        return torch.einsum("...hd,hwd->...hw", c.unflatten(-1, (self.n_heads, -1)), weight)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, c: Tensor, state: BlockState | None, starts: Tensor | None
    ) -> Tensor:
        """Both attentions and the output map."""
        offset = None if state is None else state.next % self.window
        k_before, v_before = (None, None) if state is None else (state.k, state.v)
        n = k.shape[2]
        y = ops.window_attention(
            q[:, :, :n], k, v, window=self.window, k_before=k_before, v_before=v_before, offset=offset, starts=starts
        )
        if self.filter_vectors is not None and self.first_context is not None:
            contexts = self._contexts(c, self.first_context, state, starts).to(q.dtype) + self.filter_vectors
            keys, values = self._lift(contexts, self.context_k), self._lift(contexts, self.context_v)
            z = ops.context_attention(q[:, :, n:], keys, values, window=self.window, offset=offset, starts=starts)
            y = torch.cat([y, z.to(y.dtype)], dim=2)
        return self.o_proj(y.flatten(2))

    def _contexts(self, c: Tensor, first_context: Tensor, state: BlockState | None, starts: Tensor | None) -> Tensor:
        """What every window of a chunk sees of the past: (batch, windows, filters, d_model)."""
        offset = None if state is None else state.next % self.window
        _, number = ops.window_index(c, self.window, offset, starts)
        count = ops.window_count(c, self.window)
        if starts is not None:
            is_known = not (torch.compiler.is_compiling() or c.is_meta or c.numel() == 0)
            count = int(number.max()) + 1 if is_known else max(c.shape[1], 1)
        each = torch.arange(count, device=c.device).expand(len(c), -1).contiguous()
        # The first element of every window; that of a window that is not there is never looked at.
        first = torch.searchsorted(number.contiguous(), each).clamp(max=max(c.shape[1] - 1, 0))
        ended = _at(c.unflatten(-1, (self.channels, self.d_model)), first - 1)
        if state is not None:
            ended = torch.where((first > 0)[:, :, None, None], ended, state.context[:, None].to(c.dtype))
        in_first_window = first - _begun(c, state, starts).gather(1, first) < self.window
        return torch.where(in_first_window[:, :, None, None], first_context.to(c.dtype), ended)

    def _after(
        self,
        k: Tensor,
        v: Tensor,
        c: Tensor,
        state: BlockState,
        ssm: LTIState,
        lengths: Tensor | None,
        starts: Tensor | None,
    ) -> BlockState:
        """The state after the last valid element of a chunk."""
        count = torch.full_like(state.next, c.shape[1]) if lengths is None else lengths.to(torch.int64)
        last = (count - 1).clamp(min=0)[:, None]
        place = torch.where(count > 0, count - _begun(c, state, starts).gather(1, last)[:, 0], state.next)
        seen = place % self.window
        slot = torch.arange(self.window - 1, device=c.device)
        # A row without valid elements keeps its state, down to the slots that nothing looks at.
        is_seen = ((slot >= self.window - 1 - seen[:, None]) | (count == 0)[:, None])[:, :, None, None]
        kept = []
        for before, part in ((state.k, k), (state.v, v)):
            whole = torch.cat([before, part.to(before.dtype)], dim=1)
            end = whole[:, c.shape[1] :] if lengths is None else _at(whole, count[:, None] + slot)
            kept.append(torch.where(is_seen, end, end.new_zeros(())))
        context = state.context
        if self.variant == "multi_filter":
            ended = (count - 1 - seen)[:, None]
            found = _at(c.unflatten(-1, (self.channels, self.d_model)), ended)[:, 0].to(context.dtype)
            context = torch.where(ended[:, :, None] < 0, context, found)
            context = torch.where((place < self.window)[:, None, None], context.new_zeros(()), context)
        return BlockState(ssm.x, kept[0], kept[1], context, place)


def _valid(starts: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """Starts without those in the padding."""
    if starts is None or lengths is None:
        return starts
    return starts & valid_steps(lengths, starts.shape[1])


def _begun(c: Tensor, state: BlockState | None, starts: Tensor | None) -> Tensor:
    """Where the sequence of each element began (batch, length), counted from the first element of the chunk."""
    i = torch.arange(c.shape[1], device=c.device).expand(c.shape[:2])
    before = torch.zeros_like(i) if state is None else -state.next[:, None].expand_as(i)
    if starts is None:
        return before
    begun = torch.where(starts, i, -1).cummax(dim=1).values
    return torch.where(begun < 0, before, begun)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Elements (batch, n) of x (batch, length, ., .); any of them for an index below 0."""
    return x.gather(1, index.clamp(min=0)[:, :, None, None].expand(-1, -1, *x.shape[2:]))


def _uniform(maps: int, rows: int, columns: int) -> Tensor:
    """Linear maps as `nn.Linear` starts them."""
    return (torch.rand(maps, rows, columns) * 2 - 1) * columns**-0.5
