"""Causal softmax attention over keys that say where they stand: whole, or within a window in linear time."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError
from longstate.ops import _dispatch


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_position: Tensor | None = None,
    k_position: Tensor | None = None,
    since: Tensor | None = None,
    *,
    window: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Every query over the keys that it may see.

        y_i = Σ_j softmax_j(q_i·k_j / √width) v_j,    j with max(since_i, q_position_i - window + 1) <= k_position_j
                                                             and k_position_j <= q_position_i

    Keys are those of the queries themselves at the end, with older ones (a cache) before them. A negative position is
    a place to pass over. Query head h reads key head h // (heads / key heads). With a window the keys are visited
    block by block, so time and memory are linear in the length.

    Args:
        q: Queries (batch, length, heads, width).
        k: Keys (batch, cached + length, key heads, width).
        v: Values, as the keys.
        q_position: Positions of the queries (batch, length); None for 0 .. length-1 of rows without a cache.
        k_position: Positions of the keys (batch, cached + length), growing; None as above.
        since: First position that a query may see (batch, length), for packed sequences; 0 if None.
        window: How many positions a query sees, its own among them; None for all.
        backend: "torch" (scaled_dot_product_attention), "reference" (a plain softmax), or "auto".

    Returns:
        Outputs (batch, length, heads, width); 0 for a query that sees nothing.

    Raises:
        InputError: If shapes do not belong together.

    Source:
        Vaswani et al., arXiv 1706.03762, equation 1; grouped heads: Ainslie et al., arXiv 2305.13245.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> v = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)
        >>> ops.attention(torch.zeros_like(v), torch.zeros_like(v), v).flatten()
        tensor([1., 2.])
    """
    fits = q.dim() == k.dim() == 4 and k.shape == v.shape and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    if not fits or k.shape[1] < q.shape[1] or k.shape[2] < 1 or q.shape[2] % k.shape[2]:
        raise InputError(
            f"`q` has shape {tuple(q.shape)}, `k` {tuple(k.shape)} and `v` {tuple(v.shape)}, but (batch, length, "
            "heads, width) and twice (batch, cached + length, key heads, width) with a divisor of the heads are "
            "needed; check their axes."
        )
    return _dispatch.run("attention", backend, q.device, q, k, v, q_position, k_position, since, window)


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_position: Tensor | None,
    k_position: Tensor | None,
    since: Tensor | None,
    window: int | None,
) -> Tensor:
    """The equation with one score for every pair."""
    k, v = (part.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for part in (k, v))
    q_position, k_position, since = _positions(q, q_position, k_position, since)
    scores = torch.einsum("bihw,bjhw->bhij", q, k) * q.shape[-1] ** -0.5
    visible = _visible(q_position, k_position, since, window)[:, None]
    weights = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)
    # A query that sees nothing has no largest score to subtract: its weights are not numbers.
    weights = torch.where(visible, weights, weights.new_zeros(()))
    return torch.einsum("bhij,bjhw->bihw", weights, v)


def _attention_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_position: Tensor | None,
    k_position: Tensor | None,
    since: Tensor | None,
    window: int | None,
) -> Tensor:
    length, keys = q.shape[1], k.shape[1]
    if length == 0:
        return q
    if window is not None and keys > 2 * window:
        return _by_blocks(q, k, v, *_positions(q, q_position, k_position, since), window)
    if q_position is None and since is None and window is None:
        return _product(q, k, v, None)
    return _product(q, k, v, _visible(*_positions(q, q_position, k_position, since), window))


def _by_blocks(
    q: Tensor, k: Tensor, v: Tensor, q_position: Tensor, k_position: Tensor, since: Tensor, window: int
) -> Tensor:
    """Blocks of `window` queries, each over the keys of its own block and of the one before."""
    batch, length = q.shape[:2]
    cached, blocks = k.shape[1] - length, -(-length // window)
    extra = blocks * window - length
    # Before a query stand at most window-1 places that it may see, so older keys are left out.
    front = min(cached, window)
    k, v, k_position = (part[:, cached - front :] for part in (k, v, k_position))
    k, v = (F.pad(part, (0, 0, 0, 0, window - front, extra)) for part in (k, v))
    k_position = F.pad(k_position, (window - front, extra), value=-1)
    q = F.pad(q, (0, 0, 0, 0, 0, extra))
    q_position, since = (F.pad(part, (0, extra), value=-1) for part in (q_position, since))

    def pairs(part: Tensor) -> Tensor:
        halves = part.unflatten(1, (blocks + 1, window))
        return torch.cat([halves[:, :-1], halves[:, 1:]], dim=2).flatten(0, 1)

    k, v, k_position = pairs(k), pairs(v), pairs(k_position)
    q, q_position, since = (part.unflatten(1, (blocks, window)).flatten(0, 1) for part in (q, q_position, since))
    y = _product(q, k, v, _visible(q_position, k_position, since, window))
    return y.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :length]


def _product(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    k, v = (part.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for part in (k, v))
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    if visible is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    # A query that sees nothing looks at everything, and what it found is dropped: no -inf row reaches the softmax.
    blind = ~visible.any(-1, keepdim=True)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=(visible | blind)[:, None])
    return torch.where(blind[:, None], y.new_zeros(()), y).transpose(1, 2)


def _positions(
    q: Tensor, q_position: Tensor | None, k_position: Tensor | None, since: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if q_position is None or k_position is None:
        q_position = k_position = torch.arange(q.shape[1], device=q.device).expand(q.shape[:2])
    return q_position, k_position, torch.zeros_like(q_position) if since is None else since


def _visible(q_position: Tensor, k_position: Tensor, since: Tensor, window: int | None) -> Tensor:
    """Which keys (last axis) every query may see (batch, length, keys)."""
    first = since if window is None else torch.maximum(since, q_position - (window - 1))
    first = first.clamp(min=0)
    return (k_position[:, None] <= q_position[:, :, None]) & (k_position[:, None] >= first[:, :, None])


_dispatch.register(
    "attention",
    _dispatch.Backend("torch", _attention_torch, _dispatch.always),
    _dispatch.Backend("reference", attention_reference, _dispatch.always),
)
