"""Reading a pickle that may hold arrays and plain containers, and nothing else."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from longstate._checks import InputError


def read_plain_pickle(path: Path) -> Any:
    """The object in an NPY file (what is in it, if it is an array of one object), with nothing called that it names.

    A pickle is a program. Of all that it may name, only the four things that numpy's arrays need are admitted, and
    three of these are replaced by what this file defines.

    Raises:
        InputError: If the pickle names anything else, or the file is cut off.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                np.lib.format.read_array_header_1_0(file)
            else:
                np.lib.format.read_array_header_2_0(file)
            array = _PlainUnpickler(file).load()
            return array.item() if isinstance(array, np.ndarray) and array.shape == () else array
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} cannot be read ({error}), but a whole pickle of arrays is needed; install its package again."
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Admits numpy arrays, numpy types and the containers that pickles hold by themselves."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in ADMITTED:
            raise InputError(
                f"names `{module_name}.{global_name}`, but only arrays and plain containers may be unpickled; do not "
                "open the file, and find out where it comes from."
            )
        return ADMITTED[module_name, global_name]


PLAIN_ARRAY = object()
"""In place of `numpy.ndarray`, which a pickle only passes on and need not be able to call."""


def _empty_array(kind: object, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """In place of numpy's `_reconstruct`: an array that the pickle then fills."""
    if kind is not PLAIN_ARRAY or shape != (0,) or code != b"b":
        raise InputError("builds an array of an unusual kind, but plain arrays are needed; save it again.")
    return np.ndarray(shape, np.int8)


def _latin1(text: str, encoding: str) -> bytes:
    """In place of `_codecs.encode`: the bytes that old pickles write as text."""
    if encoding != "latin1":
        raise InputError(f"encodes text as {encoding!r}, but only latin1 is used for arrays; save it again.")
    return text.encode("latin1")


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): PLAIN_ARRAY,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
