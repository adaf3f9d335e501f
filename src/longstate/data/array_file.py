"""Recordings in numpy's own files. Nothing is ever unpickled."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from longstate._checks import InputError
from longstate.data.recording import Recording, checked_values


def read_array_recording(path: Path) -> Recording:
    """One recording from an NPY file, or from an NPZ file that holds one array."""
    return Recording(checked_values(read_array(path), path))


def read_array(path: Path) -> np.ndarray:
    """The array of an NPY file, or the only array of an NPZ file."""
    read = _read_npz if path.suffix.lower() == ".npz" else _read_npy
    try:
        return read(path)
    except InputError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise _unusable(path, str(error)) from error


def _read_npy(path: Path) -> np.ndarray:
    return np.array(np.lib.format.open_memmap(path, mode="r"))  # a map is checked against the size before it is read


def _read_npz(path: Path) -> np.ndarray:
    if not zipfile.is_zipfile(path):
        raise _unusable(path, "it is no archive")
    with np.load(path, allow_pickle=False) as archive:
        if len(archive.files) != 1:
            names = ", ".join(archive.files) or "no arrays"
            raise InputError(f"{path} holds {names}, but one array is needed; save one recording a file.")
        return archive[archive.files[0]]


def _unusable(path: Path, reason: str) -> InputError:
    with path.open("rb") as file:
        is_pickle = file.read(1) == b"\x80"
    if is_pickle or "object" in reason.lower():
        return InputError(
            f"{path} holds pickled Python objects, which can run any code, but an array of plain numbers is needed; "
            "save it again with `np.save(path, array.astype(float), allow_pickle=False)`."
        )
    return InputError(
        f"{path} cannot be read as a numpy array ({reason.rstrip('.')}), but a whole {path.suffix.lower()} file is "
        "needed; it may be cut off or of another kind, so copy or save it again."
    )
