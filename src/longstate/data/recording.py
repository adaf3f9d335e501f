"""One recording: its values, the names of its channels and its sampling rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longstate._checks import InputError


class Recording(NamedTuple):
    """What one file holds: `x` (length, channels) float32, and what the file says about it."""

    x: np.ndarray
    channels: tuple[str, ...] | None = None
    sampling_rate: float | None = None


def default_channels(count: int) -> tuple[str, ...]:
    """The names of channels that have none: ``channel_0``, ``channel_1``, ... They stand for a position."""
    return tuple(f"channel_{index}" for index in range(count))


def existing_file(path: str | Path) -> Path:
    """`path`, if it is a file that is not empty."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file, but a file is needed; correct the path.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes), but data are needed; copy it again or leave it out.")
    return path


def not_text(path: Path) -> InputError:
    """The error for a file that should be text and is not."""
    return InputError(f"{path} is not UTF-8 text, but a {path.suffix.lower()} file has to be; save it again as UTF-8.")


def checked_values(values: np.ndarray, source: str | Path) -> np.ndarray:
    """`values` (length,) or (length, channels) as float32 (length, channels), if every one is a finite number."""
    if values.dtype.kind not in "fiub":
        raise InputError(
            f"{source} holds values of type {values.dtype}, but real numbers are needed; convert them before saving."
        )
    if values.ndim not in (1, 2):
        raise InputError(
            f"{source} holds an array of shape {values.shape}, but (length, channels) or (length,) is needed; "
            "save one recording a file, with time on the first axis."
        )
    values = values[:, None] if values.ndim == 1 else values
    if 0 in values.shape:
        missing = "rows" if len(values) == 0 else "channels"
        raise InputError(
            f"{source} has no {missing}, but at least one step of one channel is needed; record again or leave it out."
        )
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(values, dtype=np.float32)
    finite = np.isfinite(x)
    if not finite.all():
        step, channel = (int(index) for index in np.argwhere(~finite)[0])
        raise InputError(
            f"{source}, row {step} (counted from 0), channel {channel} holds {values[step, channel]}, but numbers that "
            "are finite in float32 are needed; fill the gap, or cut the recording there."
        )
    return x


def channel_indices(
    source: str | Path, names: tuple[str, ...] | None, count: int, wanted: Sequence[str] | None
) -> list[int]:
    """Where the wanted channels stand in a file of `count` channels: by name if it has names, else by position."""
    if wanted is None:
        return list(range(count))
    if names is None or tuple(wanted) == default_channels(len(wanted)):
        if count != len(wanted):
            raise InputError(
                f"{source} has {count} channels, but {len(wanted)} are needed ({', '.join(wanted)}); "
                "give a file with the same channels."
            )
        return list(range(count))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"{source} has the columns {', '.join(names)}, but {', '.join(missing)} is needed too; "
            "give a file with the same channels, or rename the columns."
        )
    return [names.index(name) for name in wanted]
