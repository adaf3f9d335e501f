"""Several recording files as one set: the same channels and the same sampling rate in all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longstate._checks import InputError
from longstate.data.arrays import from_arrays
from longstate.data.recording_file import SUFFIXES, read_recording
from longstate.data.recordings import Recordings


class Files(NamedTuple):
    """The values of each file, and what all of them agree on."""

    x: tuple[np.ndarray, ...]
    channels: tuple[str, ...] | None
    sampling_rate: float | None


def read_files(paths: Sequence[Path], *, channels: Sequence[str] | None = None) -> Files:
    """Read recordings and hold each against the first; named channels may stand in another order there."""
    first = read_recording(paths[0], channels=channels)
    rows = [first.x]
    for path in paths[1:]:
        x, names, sampling_rate = read_recording(path, channels=channels)
        if x.shape[1] != first.x.shape[1]:
            raise InputError(
                f"{path} has {x.shape[1]} channels, but {paths[0]} has {first.x.shape[1]}, and all recordings need the "
                "same; leave one out, or choose the channels that both have."
            )
        if sampling_rate != first.sampling_rate:
            raise InputError(
                f"{path} has the sampling rate {sampling_rate} Hz, but {paths[0]} has {first.sampling_rate} Hz, and "
                "all recordings need the same; resample one of them."
            )
        if names and first.channels and names != first.channels:
            if sorted(names) != sorted(first.channels):
                raise InputError(
                    f"{path} has the channels {', '.join(names)}, but {paths[0]} has {', '.join(first.channels)}, and "
                    "all recordings need the same; rename the columns, or choose the channels that both have."
                )
            x = np.ascontiguousarray(x[:, [names.index(name) for name in first.channels]])
        rows.append(x)
    return Files(tuple(rows), first.channels if channels is None else tuple(channels), first.sampling_rate)


def read_folder(folder: Path, *, channels: Sequence[str] | None = None) -> Recordings:
    """The recordings in a folder, in the order of their names, without labels; other files are passed over."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InputError(
            f"{folder} holds no recordings, but files ending in {', '.join(SUFFIXES)} are needed; check the folder."
        )
    return _unlabelled(paths, channels)


def read_single(path: Path, *, channels: Sequence[str] | None = None) -> Recordings:
    """One recording file as a set of one, without a label."""
    return _unlabelled([path], channels)


def _unlabelled(paths: Sequence[Path], channels: Sequence[str] | None) -> Recordings:
    files = read_files(paths, channels=channels)
    return from_arrays(
        files.x, names=[path.name for path in paths], channels=files.channels, sampling_rate=files.sampling_rate
    )
