"""Attention in windows that stand side by side: each element over its own window, or over what is known before it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError
from longstate.ops import _dispatch
from longstate.ops.attention import attention


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    k_before: Tensor | None = None,
    v_before: Tensor | None = None,
    offset: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Causal softmax attention inside windows of `window` elements.

        y_i = Σ_j softmax_j(q_i·k_j / √width) v_j,    j <= i in the window of i

    The first window may have begun before the first element, by `offset` elements whose keys and values are the last of
    those before. Time and memory are linear in the length.

    Args:
        q: Queries (batch, length, heads, width).
        k: Keys, as the queries.
        v: Values, as the queries.
        window: Elements of a window.
        k_before: Keys before the first element (batch, window - 1, heads, width); zeros if None.
        v_before: Values before the first element.
        offset: How many of those belong to the window of the first element (batch,), below `window`; 0 if None.
        starts: True where a packed sequence begins (batch, length), and a window with it.
        backend: "torch", "reference" (a loop over elements), or "auto".

    Returns:
        Outputs (batch, length, heads, width).

    Raises:
        InputError: If shapes do not belong together.

    Source:
        Fathi et al.: Block-State Transformers, arXiv 2306.09539, section 3.2 (the self-attention of its blocks).

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> v = torch.tensor([1.0, 3.0, 5.0]).reshape(1, 3, 1, 1)
        >>> ops.window_attention(torch.zeros_like(v), torch.zeros_like(v), v, window=2).flatten()
        tensor([1., 2., 5.])
    """
    _check(q, k, v, window)
    k_before, v_before = (_before(part, like, window) for part, like in ((k_before, k), (v_before, v)))
    args = (q, k, v, window, k_before, v_before, offset, starts)
    return _dispatch.run("window_attention", backend, q.device, *args)


def context_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    offset: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention of every element over the contexts of its window, of which it sees all.

        y_i = Σ_s softmax_s(q_i·k_{m,s} / √width) v_{m,s},    m = the window of i

    Args:
        q: Queries (batch, length, heads, width).
        k: Keys (batch, windows, contexts, heads, width), at least as many windows as `window_index` counts.
        v: Values, as the keys.
        window: Elements of a window.
        offset: As of `window_attention`.
        starts: As of `window_attention`.
        backend: "torch", "reference" (a loop over elements), or "auto".

    Returns:
        Outputs (batch, length, heads, width).

    Raises:
        InputError: If shapes do not belong together.

    Source:
        As of `window_attention` (the cross-attention of its multi-filter form).

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> v = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 2, 2, 1, 1)
        >>> ops.context_attention(torch.zeros(1, 3, 1, 1), torch.zeros_like(v), v, window=2).flatten()
        tensor([2., 2., 6.])
    """
    fits = q.dim() == 4 and k.dim() == 5 and k.shape == v.shape and q.shape[0] == k.shape[0]
    if (
        not fits
        or q.shape[2:] != k.shape[3:]
        or window < 1
        or (starts is None and k.shape[1] < window_count(q, window))
    ):
        raise InputError(
            f"`q` has shape {tuple(q.shape)}, `k` {tuple(k.shape)} and `v` {tuple(v.shape)}, but (batch, length, "
            "heads, width) and twice (batch, windows, contexts, heads, width) are needed, with contexts for every "
            "window; check their axes."
        )
    return _dispatch.run("context_attention", backend, q.device, q, k, v, window, offset, starts)


def window_index(q: Tensor, window: int, offset: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where every element stands.

    Args:
        q: Of the batch and the length in question (batch, length, ...).
        window: Elements of a window.
        offset: As of `window_attention`.
        starts: As of `window_attention`.

    Returns:
        Its place in its window, from 0, and the number of its window, from 0 for that of the first element: both
        (batch, length).
    """
    i = torch.arange(q.shape[1], device=q.device).expand(q.shape[:2])
    place = i if offset is None else i + offset[:, None]
    if starts is None:
        return place % window, place // window
    begun = torch.where(starts, i, -1).cummax(dim=1).values
    place = torch.where(begun < 0, place, i - begun) % window
    return place, ((place == 0) & (i > 0)).cumsum(dim=1)


def window_count(q: Tensor, window: int) -> int:
    """The most windows that (batch, length, ...) can touch without starts, wherever its first one began."""
    return (max(q.shape[1], 1) + window - 2) // window + 1


def window_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    k_before: Tensor,
    v_before: Tensor,
    offset: Tensor | None,
    starts: Tensor | None,
) -> Tensor:
    """The equation as a loop over rows and elements."""
    place, _ = window_index(q, window, offset, starts)
    k, v = torch.cat([k_before, k], dim=1), torch.cat([v_before, v], dim=1)
    rows = []
    for row in range(q.shape[0]):
        outputs = []
        for i in range(q.shape[1]):
            seen = slice(window - 1 + i - int(place[row, i]), window + i)
            outputs.append(_softmax_mean(q[row, i], k[row, seen], v[row, seen]))
        rows.append(torch.stack(outputs) if outputs else q[row])
    return torch.stack(rows) if rows else q


def context_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, window: int, offset: Tensor | None, starts: Tensor | None
) -> Tensor:
    """The equation as a loop over rows and elements."""
    _, number = window_index(q, window, offset, starts)
    rows = []
    for row in range(q.shape[0]):
        own = [(k[row, m], v[row, m]) for m in number[row].tolist()]
        outputs = [_softmax_mean(q[row, i], keys, values) for i, (keys, values) in enumerate(own)]
        rows.append(torch.stack(outputs) if outputs else q[row])
    return torch.stack(rows) if rows else q


def _softmax_mean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query (heads, width) over keys and values (n, heads, width)."""
    weights = torch.softmax((k * q).sum(-1) * q.shape[-1] ** -0.5, dim=0)
    return (weights[..., None] * v).sum(0)


def _window_attention_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    k_before: Tensor,
    v_before: Tensor,
    offset: Tensor | None,
    starts: Tensor | None,
) -> Tensor:
    batch, length = q.shape[:2]
    if q.numel() == 0:
        return q
    if starts is None and offset is None:
        size = max(min(length, window), 1)
        q, k, v = (_side_by_side(F.pad(part, (0, 0, 0, 0, 0, -length % size)), size) for part in (q, k, v))
        return _product(q, k, v, is_causal=True).unflatten(0, (batch, -1)).flatten(1, 2)[:, :length]
    if starts is None and offset is not None and length >= window:
        q, k, v = (_aligned(part, window, offset, before) for part, before in ((q, None), (k, k_before), (v, v_before)))
        return _straight(_product(q, k, v, is_causal=True), offset, batch, length)
    # Packed sequences begin their windows anywhere, and a short chunk would hardly fill the windows it is put in.
    place, _ = window_index(q, window, offset, starts)
    position = torch.arange(window - 1 + length, device=q.device).expand(batch, -1)
    own = position[:, window - 1 :]
    k, v = torch.cat([k_before, k], dim=1), torch.cat([v_before, v], dim=1)
    return attention(q, k, v, own, position, own - place, window=window)


def _context_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, window: int, offset: Tensor | None, starts: Tensor | None
) -> Tensor:
    batch, length = q.shape[:2]
    if q.numel() == 0:
        return q
    if starts is None and length >= window:
        offset = torch.zeros(batch, dtype=torch.int64, device=q.device) if offset is None else offset
        q = _aligned(q, window, offset, None)
        k, v = (part[:, : len(q) // batch].flatten(0, 1) for part in (k, v))
        return _straight(_product(q, k, v, is_causal=False), offset, batch, length)
    _, number = window_index(q, window, offset, starts)
    row = torch.arange(batch, device=q.device)[:, None]
    scores = torch.einsum("blhw,blshw->blhs", q, k[row, number]) * q.shape[-1] ** -0.5
    return torch.einsum("blhs,blshw->blhw", torch.softmax(scores, dim=-1), v[row, number])


def _aligned(x: Tensor, window: int, offset: Tensor, before: Tensor | None) -> Tensor:
    """Whole windows (batch * windows, window, heads, width), every row moved so that its windows begin together."""
    size = window_count(x, window) * window
    front = x.new_zeros(x.shape[0], window - 1, *x.shape[2:]) if before is None else before
    x = F.pad(torch.cat([front, x], dim=1), (0, 0, 0, 0, 0, size - x.shape[1]))
    index = window - 1 - offset[:, None] + torch.arange(size, device=x.device)
    return _side_by_side(x.gather(1, index[:, :, None, None].expand(-1, -1, *x.shape[2:])), window)


def _straight(y: Tensor, offset: Tensor, batch: int, length: int) -> Tensor:
    """The elements of a chunk out of whole windows: `_aligned` backwards."""
    y = y.unflatten(0, (batch, -1)).flatten(1, 2)
    index = offset[:, None] + torch.arange(length, device=y.device)
    return y.gather(1, index[:, :, None, None].expand(-1, -1, *y.shape[2:]))


def _side_by_side(x: Tensor, window: int) -> Tensor:
    return x.unflatten(1, (-1, window)).flatten(0, 1)


def _product(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal).transpose(1, 2)


def _before(part: Tensor | None, like: Tensor, window: int) -> Tensor:
    """Keys or values before the first element, in the type of those after it."""
    shape = (like.shape[0], window - 1, *like.shape[2:])
    if part is None:
        return like.new_zeros(shape)
    if part.shape != shape:
        raise InputError(
            f"what stands before has shape {tuple(part.shape)}, but {shape} is needed: the last {window - 1} keys and "
            "values; start from `initial_state(batch_size)` of the same layer."
        )
    return part.to(like.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, window: int) -> None:
    if q.dim() != 4 or q.shape != k.shape or q.shape != v.shape or window < 1:
        raise InputError(
            f"`q` has shape {tuple(q.shape)}, `k` {tuple(k.shape)}, `v` {tuple(v.shape)} and `window` is {window}, but "
            "three times (batch, length, heads, width) and a positive number are needed; check their axes."
        )


_dispatch.register(
    "window_attention",
    _dispatch.Backend("torch", _window_attention_torch, _dispatch.always),
    _dispatch.Backend("reference", window_attention_reference, _dispatch.always),
)
_dispatch.register(
    "context_attention",
    _dispatch.Backend("torch", _context_attention_torch, _dispatch.always),
    _dispatch.Backend("reference", context_attention_reference, _dispatch.always),
)
