"""Labels as numbers: class names to indices, target texts to floats."""

import math
from collections.abc import Sequence

import numpy as np

from longstate._checks import InputError
from longstate.data.text_table import is_number

UNKNOWN = -1
"""The class index of a recording or step whose class is not known; padding has it too."""


def class_order(names: Sequence[str]) -> tuple[str, ...]:
    """The different names in order: as numbers if all are numbers, else by letters."""
    different = sorted(set(names))
    if all(is_number(name) and math.isfinite(float(name)) for name in different):
        different.sort(key=float)
    return tuple(different)


def encode(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The index of each name in `classes`, int64."""
    index = {name: position for position, name in enumerate(classes)}
    return np.array([index[name] for name in names], dtype=np.int64)


def parse_target(text: str, where: str, column: str) -> float:
    """A finite number, or an error that names the place."""
    if not (is_number(text) and math.isfinite(float(text))):
        raise InputError(
            f"{where}, column {column} holds {text!r}, but regression needs a finite number; correct it, or leave the "
            "row out."
        )
    return float(text)


def check_class_name(text: str, where: str) -> str:
    """`text`, unless it is blank."""
    if not text.strip():
        raise InputError(
            f"{where} has an empty label, but a class name is needed; write the class, or leave the row out."
        )
    return text.strip()
