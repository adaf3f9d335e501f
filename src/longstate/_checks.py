"""Argument checks. An error is one sentence: what came, what was wanted, what to do."""

from collections.abc import Sequence

import torch
from torch import Tensor


class InputError(ValueError):
    """Something that a user gave (a file, a setting, an argument) cannot be used; the message says what to do."""


def check_sequence(x: Tensor, d_model: int, *, name: str = "x") -> None:
    """Raise unless `x` is a floating tensor (batch, length, d_model)."""
    if x.dim() != 3 or x.shape[-1] != d_model:
        raise InputError(
            f"`{name}` has shape {tuple(x.shape)}, but (batch, length, {d_model}) is needed; "
            "put time on axis 1 and features on axis 2."
        )
    if not x.dtype.is_floating_point:
        raise InputError(f"`{name}` is {x.dtype}, but a floating type is needed; call `{name}.float()` first.")


def check_element(x_t: Tensor, d_model: int, *, name: str = "x_t") -> None:
    """Raise unless `x_t` is one element of a sequence for each row: (batch, d_model)."""
    if x_t.dim() != 2 or x_t.shape[-1] != d_model:
        raise InputError(
            f"`{name}` has shape {tuple(x_t.shape)}, but (batch, {d_model}) is needed; "
            "`step` takes one element of each row, without a time axis."
        )


def check_ids(ids: Tensor, vocabulary_size: int, *, axes: tuple[str, ...], name: str) -> None:
    """Raise unless `ids` holds integers from 0 to vocabulary_size - 1 on the named axes."""
    if ids.dim() != len(axes) or ids.dtype not in (torch.int64, torch.int32):
        wanted = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        raise InputError(
            f"`{name}` is {ids.dtype} of shape {tuple(ids.shape)}, but integers {wanted} are needed; "
            "pass the ids of tokens, one row a sequence."
        )
    if torch.compiler.is_compiling() or ids.is_meta:
        return
    outside = (ids < 0) | (ids >= vocabulary_size)
    if bool(outside.any()):
        raise InputError(
            f"`{name}` holds the token {int(ids[outside][0])}, but tokens from 0 to {vocabulary_size - 1} are needed; "
            "use the tokenizer that the model was trained with."
        )


def check_lengths(lengths: Tensor | None, x: Tensor) -> None:
    """Raise unless `lengths` is None or holds one integer in 0..length for each row of `x` (batch, length, ...)."""
    if lengths is None:
        return
    batch, length = x.shape[:2]
    if lengths.shape != (batch,) or lengths.dtype.is_floating_point or lengths.dtype is torch.bool:
        raise InputError(
            f"`lengths` is {lengths.dtype} of shape {tuple(lengths.shape)}, but one integer for each of the "
            f"{batch} rows is needed; pass `torch.tensor([...])` of shape ({batch},)."
        )
    if torch.compiler.is_compiling():
        return
    outside = (lengths < 0) | (lengths > length)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise InputError(
            f"`lengths` must hold values between 0 and the sequence length {length}; row {row} has "
            f"{int(lengths[row])}. If x was cropped, crop `lengths` too."
        )


def check_starts(starts: Tensor | None, x: Tensor) -> None:
    """Raise unless `starts` is None or a boolean tensor (batch, length)."""
    if starts is not None and (starts.shape != x.shape[:2] or starts.dtype is not torch.bool):
        raise InputError(
            f"`starts` is {starts.dtype} of shape {tuple(starts.shape)}, but booleans of shape "
            f"{tuple(x.shape[:2])} are needed; mark the first element of each packed sequence with True."
        )


def check_fixed_rate(rate: float | Tensor | None, *, layer: str) -> float:
    """The `rate` of a layer that is time invariant, as a positive number (1.0 if None)."""
    if rate is None:
        return 1.0
    if isinstance(rate, Tensor):
        raise InputError(
            f"`rate` is a tensor of shape {tuple(rate.shape)}, but {layer} is time invariant and takes one number; "
            "pass a float, or resample the sequence to a regular grid."
        )
    if not rate > 0:
        raise InputError(f"`rate` is {rate}, but a positive number is needed; 1.0 is the rate of training.")
    return float(rate)


def check_rate(rate: float | Tensor | None, x: Tensor, lengths: Tensor | None = None) -> float | Tensor:
    """The `rate` of a layer that bears varying steps: a positive number (1.0 if None), or one interval an element.

    The elements are those of `x` (batch, length, features), or of `x_t` (batch, features). An interval of 0 puts two
    events at one instant. Intervals come back as 0 in the padding, whatever was there.
    """
    if not isinstance(rate, Tensor):
        return check_fixed_rate(rate, layer="this layer")
    if rate.shape != x.shape[:-1] or not rate.dtype.is_floating_point:
        raise InputError(
            f"`rate` is {rate.dtype} of shape {tuple(rate.shape)}, but floating numbers of shape {tuple(x.shape[:-1])} "
            "are needed; pass for each element the time since the one before, in units of the training step."
        )
    if lengths is not None:
        rate = torch.where(valid_steps(lengths, x.shape[1]), rate, rate.new_zeros(()))
    if torch.compiler.is_compiling() or rate.device.type == "meta":
        return rate
    refused = rate[~(rate >= 0) | rate.isinf()]
    if len(refused):
        wanted = "finite" if refused[0].isinf() and refused[0] > 0 else "at least 0"
        raise InputError(
            f"`rate` holds {float(refused[0])}, but an interval is {wanted}; sort the elements by time and pass the "
            "time since the element before."
        )
    return rate


def check_rate_alone(rate: float | Tensor | None, constants: object) -> None:
    """Raise if intervals come beside `constants`, which already hold one rate."""
    if constants is not None and isinstance(rate, Tensor):
        raise InputError(
            f"`rate` is a tensor of shape {tuple(rate.shape)} beside `constants`, but constants already hold one rate "
            "for all rows; leave `constants` out."
        )


def check_grid(x: Tensor, dim: int, d_model: int) -> None:
    """Raise unless `x` is a floating tensor (batch, *grid, d_model) over a grid of `dim` axes."""
    if x.dim() != dim + 2 or x.shape[-1] != d_model:
        axes = ", ".join(f"length_{axis}" for axis in range(1, dim + 1))
        raise InputError(
            f"`x` has shape {tuple(x.shape)}, but (batch, {axes}, {d_model}) is needed; put the features last."
        )
    if not x.dtype.is_floating_point:
        raise InputError(f"`x` is {x.dtype}, but a floating type is needed; call `x.float()` first.")


def check_axis_rates(rate: float | Sequence[float] | None, dim: int) -> list[float]:
    """The `rate` of each axis of a grid, from one number for all (1.0 if None) or one for each."""
    rates = list(rate) if isinstance(rate, Sequence) else [1.0 if rate is None else rate] * dim
    if len(rates) != dim or not all(isinstance(r, int | float) and r > 0 for r in rates):
        raise InputError(
            f"`rate` is {rate}, but a positive number or one for each of the {dim} axes is needed; 1.0 is the "
            "resolution of training."
        )
    return [float(r) for r in rates]


def check_no_rate(rate: float | Tensor | None, *, layer: str) -> None:
    """Raise unless `rate` is None: the layer counts elements and has no time scale that it could change."""
    if rate is not None:
        came = f"a tensor of shape {tuple(rate.shape)}" if isinstance(rate, Tensor) else rate
        raise InputError(
            f"`rate` is {came}, but {layer} counts elements and has no time scale, so None is needed; resample the "
            "sequence to the rate of training."
        )


def check_positive(**sizes: int) -> None:
    """Raise unless every named size is a positive integer."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"`{name}` is {value!r}, but a positive integer is needed; give `{name}` at least 1.")


def check_choice(value: str, choices: tuple[str, ...], *, name: str) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"`{name}` is {value!r}, but one of {', '.join(choices)} is needed; choose from that list.")


def valid_steps(lengths: Tensor, length: int) -> Tensor:
    """Mask (batch, length): True where an element of a right-padded row is valid."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """`x` (batch, length, features) with everything after the valid elements replaced by 0, NaN included."""
    if lengths is None:
        return x
    return torch.where(valid_steps(lengths, x.shape[1])[..., None], x, x.new_zeros(()))
