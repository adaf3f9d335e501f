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
    return _read_npz(path) if path.suffix.lower() == ".npz" else _read_npy(path)


def _read_npy(path: Path) -> np.ndarray:
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")  # checks the file's size against its header before reading
    except (ValueError, EOFError, OSError) as error:
        raise _unusable(path, error) from error
    return np.array(mapped)


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or len(archive.files) != 1:
                names = ", ".join(archive.files) if isinstance(archive, np.lib.npyio.NpzFile) else "no names"
                raise InputError(
                    f"{path} holds the arrays {names}, but one array is needed; save one recording a file."
                )
            return archive[archive.files[0]]
    except InputError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> InputError:
    if "object" in str(error).lower():
        return InputError(
            f"{path} holds pickled Python objects, but an array of plain numbers is needed, since a pickle can run any "
            "code; save it again with `np.save(path, array.astype(float), allow_pickle=False)`."
        )
    return InputError(
        f"{path} cannot be read as a numpy array ({str(error).rstrip('.')}), but a whole {path.suffix.lower()} file is "
        "needed; it may be cut off or of another kind, so copy or save it again."
    )
