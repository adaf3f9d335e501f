"""A long filter given by a small network of its positions: what Hyena convolves with."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError
from longstate.ops import _dispatch


def implicit_filter(
    z: Tensor,
    t: Tensor,
    first: tuple[Tensor, Tensor],
    inner: tuple[Tensor, Tensor],
    last: Tensor,
    frequency: Tensor,
    decay: Tensor,
    shift: float,
    *,
    backend: str = "auto",
) -> Tensor:
    """Taps of filters as a function of their positions.

        h_0 = sin(ω (W_0 z_l + b_0)),    h_i = sin(ω (W_i h_{i-1} + b_i)),    K_l = (W h_n) (exp(-t_l decay) + shift)

    with one frequency ω a unit, shared by all layers of the network.

    Args:
        z: Embedded positions (taps, emb).
        t: Positions (taps,), 0 at the present and 1 at the last tap of the whole filter.
        first: W_0 (width, emb) and b_0 (width,).
        inner: W_i (n, width, width) and b_i (n, width).
        last: W (H, width).
        frequency: ω (width,).
        decay: Rates of the decay (H,).
        shift: Added to the decay, so that far taps do not vanish.
        backend: "torch", "reference" (tap by tap), or "auto".

    Returns:
        K (H, taps), the present first; float32 at least.

    Raises:
        InputError: If shapes do not belong together or the backend cannot run this call.

    Source:
        Poli et al., arXiv 2302.10866, section 3.3 and appendix D.3; sines after Romero et al., arXiv 2102.02611.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> one = torch.ones(1)
        >>> network = dict(first=(one[None], 0 * one), inner=(torch.ones(0, 1, 1), torch.ones(0, 1)), last=one[None])
        >>> ops.implicit_filter(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0]), **network,
        ...                     frequency=one, decay=0 * one, shift=0.0)
        tensor([[0.0000, 0.8415]])
    """
    taps, width = len(z), len(frequency)
    fits = (
        z.dim() == 2
        and t.shape == (taps,)
        and first[0].shape == (width, z.shape[-1])
        and inner[0].shape[1:] == (width, width)
        and inner[1].shape == inner[0].shape[:2]
        and last.shape == (len(decay), width)
    )
    if not fits:
        raise InputError(
            f"the network has z {tuple(z.shape)}, t {tuple(t.shape)}, first {tuple(first[0].shape)}, inner "
            f"{tuple(inner[0].shape)} and {tuple(inner[1].shape)}, last {tuple(last.shape)}, frequency "
            f"{tuple(frequency.shape)}, decay {tuple(decay.shape)}, but (taps, emb), (taps,), (width, emb), "
            "(n, width, width) and (n, width), (H, width), (width,), (H,) are needed; check which axis is the width."
        )
    return _dispatch.run("implicit_filter", backend, z.device, z, t, first, inner, last, frequency, decay, shift)


def implicit_filter_reference(
    z: Tensor,
    t: Tensor,
    first: tuple[Tensor, Tensor],
    inner: tuple[Tensor, Tensor],
    last: Tensor,
    frequency: Tensor,
    decay: Tensor,
    shift: float,
) -> Tensor:
    """The equation tap by tap."""
    K = []
    for position, time in zip(z, t, strict=True):
        h = torch.sin(frequency * (first[0] @ position + first[1]))
        for weight, bias in zip(*inner, strict=True):
            h = torch.sin(frequency * (weight @ h + bias))
        K.append((last @ h) * (torch.exp(-time * decay) + shift))
    return torch.stack(K, dim=-1)


def _implicit_filter_torch(
    z: Tensor,
    t: Tensor,
    first: tuple[Tensor, Tensor],
    inner: tuple[Tensor, Tensor],
    last: Tensor,
    frequency: Tensor,
    decay: Tensor,
    shift: float,
) -> Tensor:
    dtype = torch.promote_types(z.dtype, torch.float32)
    omega = frequency.to(dtype)
    h = torch.sin(omega * F.linear(z.to(dtype), *(part.to(dtype) for part in first)))
    for weight, bias in zip(*inner, strict=True):
        h = torch.sin(omega * F.linear(h, weight.to(dtype), bias.to(dtype)))
    return (last.to(dtype) @ h.mT) * (torch.exp(-t.to(dtype) * decay.to(dtype)[:, None]) + shift)


_dispatch.register(
    "implicit_filter",
    _dispatch.Backend("torch", _implicit_filter_torch, _dispatch.always),
    _dispatch.Backend("reference", implicit_filter_reference, _dispatch.always),
)
