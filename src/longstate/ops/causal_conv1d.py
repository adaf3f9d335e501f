"""Short causal convolutions, one filter a feature: what stands before the long operator in Hyena and Mamba."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate._checks import InputError, check_choice, check_lengths, check_starts, zero_padding
from longstate.ops import _dispatch, _third_party
from longstate.ops.conv1d_native import causal_conv1d_native, why_not
from longstate.ops.fir_tail import check_tail, next_tail, window_reference

_BLOCK = 256
"""Elements of a row in one product of the gradient of the filter, so that its operands stay in the cache."""


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    tail: Tensor | None = None,
    *,
    activation: str | None = None,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution with a short filter, and the inputs that the next chunk needs.

        y_t = activation(bias + sum_{j < W} weight_{W-1-j} x_{t-j})

    The filter has the orientation of `torch.nn.Conv1d`: its last tap multiplies the present. For filters of more than
    about 16 taps take `long_conv_scan`.

    Args:
        x: Input (batch, length, features).
        weight: Filters (features, W).
        bias: (features,), or None.
        tail: The last W - 1 inputs before x (batch, W-1, features), oldest first; zeros if None.
        activation: None or "silu".
        lengths: Valid elements of right-padded rows (batch,); outputs after them are unspecified.
        starts: True where a packed sequence begins (batch, length); what lies before is forgotten there.
        backend: "torch", "reference" (a plain loop), or "auto".

    Returns:
        Outputs (batch, length, features) in the type of `x`, computed in float32 at least, and the last W - 1 valid
        inputs of each row (batch, W-1, features) in the type of `tail` (of `weight`, if that is None).

    Raises:
        InputError: If shapes do not belong together, the activation is unknown or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> x = torch.tensor([1.0, 0.0, 2.0]).reshape(1, 3, 1)
        >>> y, tail = ops.causal_conv1d(x, torch.tensor([[10.0, 1.0]]))
        >>> y.flatten(), tail.flatten()
        (tensor([ 1., 10.,  2.]), tensor([2.]))
    """
    _check(x, weight, bias, activation, "(batch, length, features)", 3)
    check_tail(tail, x, weight.shape[1])
    check_lengths(lengths, x)
    check_starts(starts, x)
    if tail is None:
        tail = weight.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2])
    arguments = (x, weight, bias, tail, activation, lengths, starts)
    return _dispatch.run("causal_conv1d", backend, x.device, *arguments)


def causal_conv1d_step(
    x_t: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One element of `causal_conv1d`.

    Args:
        x_t: Input (batch, features).
        tail: The last W - 1 inputs (batch, W-1, features), oldest first.
        weight: Filters (features, W).
        bias: (features,), or None.
        activation: None or "silu".
        backend: "torch", "reference", or "auto".

    Returns:
        Output (batch, features) in the type of `x_t`, and the new tail.

    Raises:
        InputError: If shapes do not belong together, the activation is unknown or the backend cannot run this call.

    Example:
        >>> import torch
        >>> from longstate import ops
        >>> y, tail = ops.causal_conv1d_step(torch.ones(1, 1), torch.full((1, 1, 1), 2.0), torch.tensor([[10.0, 1.0]]))
        >>> y.item(), tail.item()
        (21.0, 1.0)
    """
    _check(x_t, weight, bias, activation, "(batch, features)", 2)
    check_tail(tail, x_t, weight.shape[1])
    return _dispatch.run("causal_conv1d_step", backend, x_t.device, x_t, tail, weight, bias, activation)


def causal_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    activation: str | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The equation as a loop over time."""
    y, new = window_reference(x, weight.flip(-1)[None], tail, lengths, starts)
    y = y.squeeze(2) if bias is None else y.squeeze(2) + bias
    return (F.silu(y) if activation == "silu" else y).to(x.dtype), new


def _causal_conv1d_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor,
    activation: str | None,
    lengths: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if x.shape[1] == 0:
        return x, tail
    dtype = torch.promote_types(torch.promote_types(x.dtype, torch.float32), weight.dtype)
    window = torch.cat([tail.to(dtype), zero_padding(x, lengths).to(dtype)], dim=1)
    taps, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
    if starts is None:
        y = _CausalConvolution.apply(window, taps, offset, activation == "silu")
    else:
        y = _shifted_sum(window, taps, offset, _since_start(starts, weight.shape[1]))
        y = F.silu(y) if activation == "silu" else y
    return y.to(x.dtype), next_tail(tail, x, lengths, starts)


class _CausalConvolution(torch.autograd.Function):
    """`_filter` and the activation, keeping their input alone; autograd's own filter gradient is slow on a CPU."""

    @staticmethod
    def forward(ctx, window: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
        y = _filter(window, weight, bias)
        ctx.save_for_backward(window, weight, bias)
        ctx.silu = silu
        return F.silu(y, inplace=True) if silu else y

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        window, weight, bias = ctx.saved_tensors
        with _dispatch.without_autocast(window.device):
            return (*_gradients(grad_outputs[0], window, weight, bias, ctx.silu, ctx.needs_input_grad), None)


def _gradients(
    grad: Tensor, window: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Derivatives by the window, the filter and the bias."""
    if silu:
        grad = torch.ops.aten.silu_backward(grad, _filter(window, weight, bias))
    reach = weight.shape[1] - 1
    grad_window = _filter(F.pad(grad, (0, 0, reach, reach)), weight.flip(-1), None) if needed[0] else None
    grad_weight = _weight_gradient(grad, window, weight.shape[1]) if needed[1] else None
    return grad_window, grad_weight, grad.sum((0, 1)) if needed[2] else None


def _filter(window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs (batch, length, features) of a window (batch, length + W - 1, features)."""
    if window.dtype is not torch.float32:
        return _shifted_sum(window, weight, bias, None)
    # As an image one row high with its channels last, which is how the window lies in memory: a third of the time of
    # `conv1d`, which wants channels first.
    image, taps = window.mT.unsqueeze(2), weight[:, None, None]
    return F.conv2d(image, taps, bias, groups=weight.shape[0]).squeeze(2).mT


def _shifted_sum(window: Tensor, weight: Tensor, bias: Tensor | None, since: Tensor | None) -> Tensor:
    """The sum over taps; `since` (batch, length) is how many elements of its sequence precede an output."""
    taps = weight.shape[1]
    length = window.shape[1] - taps + 1
    y = torch.zeros((), dtype=window.dtype, device=window.device) if bias is None else bias
    for tap in range(taps):
        shifted = window[:, tap : tap + length]
        if since is not None:
            shifted = torch.where((since >= taps - 1 - tap)[..., None], shifted, shifted.new_zeros(()))
        y = y + shifted * weight[:, tap]
    return y


def _weight_gradient(grad: Tensor, window: Tensor, taps: int) -> Tensor:
    """`sum_{batch, t} grad_t window_{t+tap}` for each tap: (features, taps)."""
    length = grad.shape[1]
    if torch.compiler.is_compiling() or grad.device.type != "cpu" or length <= _BLOCK:
        return torch.stack([(grad * window[:, tap : tap + length]).sum((0, 1)) for tap in range(taps)], dim=1)
    sums = grad.new_zeros(taps, _BLOCK, grad.shape[2])
    for row in range(len(grad)):
        for begin in range(0, length, _BLOCK):
            part = grad[row, begin : begin + _BLOCK]
            for tap in range(taps):
                sums[tap, : len(part)].addcmul_(part, window[row, begin + tap : begin + tap + len(part)])
    return sums.sum(1).T


def _since_start(starts: Tensor, taps: int) -> Tensor:
    """Elements between each position and the last start at or before it; at least `taps` where there is none."""
    place = torch.arange(starts.shape[1], device=starts.device)
    return place - torch.where(starts, place, -taps).cummax(1).values


def _causal_conv1d_step_torch(
    x_t: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(x_t.dtype, torch.float32), weight.dtype)
    recent = x_t.to(tail.dtype).unsqueeze(1)
    y = x_t.to(dtype) * weight[:, -1] + (tail.to(dtype) * weight[:, :-1].T).sum(1)
    y = y if bias is None else y + bias
    return (F.silu(y) if activation == "silu" else y).to(x_t.dtype), torch.cat([tail, recent], dim=1)[:, 1:]


def _causal_conv1d_step_reference(
    x_t: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    y, new = causal_conv1d_reference(x_t.unsqueeze(1), weight, bias, tail, activation, None, None)
    return y.squeeze(1), new


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, wanted: str, dims: int) -> None:
    features = weight.shape[0] if weight.dim() == 2 and weight.shape[1] else -1
    if x.dim() != dims or x.shape[-1] != features or (bias is not None and bias.shape != (features,)):
        raise InputError(
            f"the input has shape {tuple(x.shape)}, `weight` {tuple(weight.shape)} and `bias` "
            f"{None if bias is None else tuple(bias.shape)}, but {wanted}, (features, W) and (features,) with one "
            "number of features are needed; squeeze the middle axis of a Conv1d's weight."
        )
    if activation is not None:
        check_choice(activation, ("silu",), name="activation")


_dispatch.register(
    "causal_conv1d",
    _dispatch.Backend("causal_conv1d", _third_party.causal_conv1d, _third_party.why_not_causal_conv1d),
    _dispatch.Backend("native", causal_conv1d_native, why_not),
    _dispatch.Backend("torch", _causal_conv1d_torch, _dispatch.always),
    _dispatch.Backend("reference", causal_conv1d_reference, _dispatch.always),
)
_dispatch.register(
    "causal_conv1d_step",
    _dispatch.Backend("torch", _causal_conv1d_step_torch, _dispatch.always),
    _dispatch.Backend("reference", _causal_conv1d_step_reference, _dispatch.always),
)
