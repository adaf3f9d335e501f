"""The labels of a tagger: a file with one class a step."""

import csv
from pathlib import Path

import numpy as np

from longstate._checks import InputError
from longstate.data.array_file import read_array
from longstate.data.labels import check_class_name
from longstate.data.recording import existing_file, not_text

HEADERS = ("label", "labels")


def read_step_labels(path: str | Path) -> np.ndarray:
    """Read the class of each step of one recording.

    Args:
        path: An NPY file of integers or texts (length,), or a text file (CSV, TXT) with one integer or class name a
            line; a first line `label` or `labels` is a header.

    Returns:
        Class names (length,) as texts.

    Raises:
        InputError: If the file is missing or empty, has more than one column, or a step has no label.
    """
    path = existing_file(path)
    if path.suffix.lower() == ".npy":
        return _from_array(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise not_text(path) from error
    while rows and not rows[-1]:
        rows.pop()
    first = 1 if rows and rows[0] and rows[0][0].strip().lower() in HEADERS else 0
    if len(rows) == first:
        raise InputError(f"{path} holds no labels, but one class a line is needed; write the class of each step.")
    names = []
    for line, fields in enumerate(rows[first:], start=first + 1):
        if len(fields) > 1:
            raise InputError(f"{path}, line {line} has {len(fields)} fields, but one class a line is needed; keep one.")
        names.append(check_class_name(fields[0] if fields else "", f"{path}, line {line}"))
    return np.array(names)


def _from_array(path: Path) -> np.ndarray:
    labels = read_array(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or len(labels) == 0:
        raise InputError(
            f"{path} holds {labels.dtype} of shape {labels.shape}, but one integer or text a step (length,) is needed; "
            "save the classes as one axis."
        )
    return labels.astype(str)
