"""The `.tsv` files of the UCR archive: one series a line, its label first."""

import math
from pathlib import Path

import numpy as np

from longstate._checks import InputError
from longstate.data.archive import train_test_pair
from longstate.data.arrays import from_arrays
from longstate.data.recordings import Recordings, Task
from longstate.data.text_table import parse_numbers, read_opening


def read_ucr(path: str | Path, *, task: Task = "classification") -> Recordings:
    """Read a data set of the UCR archive.

    Args:
        path: `X_TRAIN.tsv`, with which `X_TEST.tsv` beside it is read as the split "test"; or any one such file. NaN at
            the end of a line is padding and is cut off.
        task: "classification", or "regression" if the first column holds a target.

    Returns:
        Recordings of one channel; their names are the file and the row.

    Raises:
        InputError: If a value is missing within a series, or cannot be read.

    Source: Dau et al., "The UCR time series archive", arXiv 1810.07758.
    """
    if task in ("tagging", "step_regression"):
        raise InputError(f"{path} holds a label a recording, but {task} needs one a step; use a manifest.")
    rows, labels, splits, names = [], [], [], []
    for file, split in train_test_pair(path):
        opening = read_opening(file)._replace(is_header=False)
        table = parse_numbers(file, opening, gaps=True)
        for number, row in enumerate(table):
            name = f"{file.name}, row {number}"
            rows.append(_series(row, f"{file}, row {number} (counted from 0)"))
            labels.append(float(row[0]) if task == "regression" else f"{row[0]:g}")
            splits.append(split)
            names.append(name)
    return from_arrays(rows, labels, task=task, splits=splits, names=names)


def _series(row: np.ndarray, where: str) -> np.ndarray:
    """The values after the label, without the padding."""
    if math.isnan(row[0]):
        raise InputError(f"{where} has no label in its first column, but a number is needed there; correct it.")
    if np.isinf(row).any():
        raise InputError(
            f"{where} holds a value that is infinite in float32, but finite numbers are needed; fill the gap, or "
            "leave the row out."
        )
    valid = np.flatnonzero(~np.isnan(row[1:]))
    if len(valid) == 0:
        raise InputError(f"{where} has no values after its label, but one at least is needed; leave the row out.")
    if len(valid) != valid[-1] + 1:
        step = int(np.flatnonzero(np.isnan(row[1:]))[0])
        raise InputError(
            f"{where} has NaN at step {step} within the series, but NaN may stand only at the end as padding; fill the "
            "gap, or leave the row out."
        )
    return row[1 : len(valid) + 1]
