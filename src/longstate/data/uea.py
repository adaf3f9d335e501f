"""The `.ts` files of the UEA archive (sktime, aeon): a header, then one recording a line."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longstate._checks import InputError
from longstate.data.archive import train_test_pair
from longstate.data.arrays import from_arrays
from longstate.data.labels import parse_target
from longstate.data.recording import not_text
from longstate.data.recordings import Recordings, Task
from longstate.data.text_table import is_number


class Header(NamedTuple):
    """What the lines with `@` say: the classes (None if there are none), and whether a number is the label."""

    classes: tuple[str, ...] | None = None
    has_target: bool = False


def read_uea(path: str | Path, *, task: Task = "classification") -> Recordings:
    """Read a data set in the `.ts` format.

    Args:
        path: `X_TRAIN.ts`, with which `X_TEST.ts` beside it is read as the split "test"; or any one such file. Lengths
            may differ from line to line.
        task: "classification" for files with `@classLabel true`, "regression" for `@targetLabel true`, "prediction"
            for either.

    Returns:
        Recordings whose names are the file and the line.

    Raises:
        InputError: If a value is missing (`?`), is no number, or stands beside a time stamp, or the labels are of
            another kind than the task.

    Source: Bagnall et al., "The UEA multivariate time series classification archive, 2018", arXiv 1811.00075.
    """
    rows, labels, splits, names = [], [], [], []
    for file, split in train_test_pair(path):
        header, lines = _read_lines(file)
        _check_task(header, task, file)
        for number, line in lines:
            where = f"{file}, line {number}"
            fields = line.split(":")
            label = fields.pop() if header.classes is not None or header.has_target else None
            rows.append(_values(fields, where))
            labels.append(_label(label, header, task, where))
            splits.append(split)
            names.append(f"{file.name}, line {number}")
            if rows[-1].shape[1] != rows[0].shape[1]:
                raise InputError(
                    f"{where} has {rows[-1].shape[1]} channels, but {rows[0].shape[1]} are needed as in {names[0]}; "
                    "correct the line, which separates channels by colons."
                )
    return from_arrays(rows, None if task == "prediction" else labels, task=task, splits=splits, names=names)


def _read_lines(path: Path) -> tuple[Header, list[tuple[int, str]]]:
    """The header, and the lines of data with their numbers."""
    header, lines, in_data = Header(), [], False
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, start=1):
                line = text.strip()
                if not line or line[0] in "#%":
                    continue
                if in_data:
                    lines.append((number, line))
                elif line.lower() == "@data":
                    in_data = True
                else:
                    header = _extend(header, line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise not_text(path) from error
    if not lines:
        raise InputError(
            f"{path} has no lines after `@data`, but one recording a line is needed there; it may be cut off: copy "
            "it again."
        )
    return header, lines


def _extend(header: Header, line: str, where: str) -> Header:
    """The header with one more line; only what changes the reading is kept."""
    if not line.startswith("@"):
        raise InputError(
            f"{where} holds {line[:40]!r} before `@data`, but lines with `@` are needed; correct the header."
        )
    key, *values = line[1:].split()
    is_true = bool(values) and values[0].lower() == "true"
    match key.lower():
        case "timestamps" if is_true:
            raise InputError(
                f"{where} announces time stamps, but values at regular steps are needed; resample them, and write "
                "values only."
            )
        case "classlabel" if is_true:
            return header._replace(classes=tuple(values[1:]))
        case "targetlabel" if is_true:
            return header._replace(has_target=True)
        case _:
            return header


def _check_task(header: Header, task: Task, path: Path) -> None:
    if task == "classification" and header.classes is None:
        raise InputError(f"{path} has no `@classLabel true`, but classes are needed; read it for another task.")
    if task == "regression" and not header.has_target:
        raise InputError(f"{path} has no `@targetLabel true`, but a target is needed; read it for another task.")
    if task in ("tagging", "step_regression"):
        raise InputError(f"{path} holds a label a recording, but {task} needs one a step; use a manifest.")


def _label(label: str | None, header: Header, task: Task, where: str) -> str | float | None:
    """The label as the task takes it."""
    if label is None or task == "prediction":
        return None
    if task == "regression":
        return parse_target(label.strip(), where, "target")
    if header.classes and label.strip() not in header.classes:
        raise InputError(
            f"{where} has the label {label.strip()!r}, but `@classLabel` names {', '.join(header.classes)}; "
            "correct one."
        )
    return label.strip()


def _values(fields: list[str], where: str) -> np.ndarray:
    """The channels of one line, float64 (length, channels)."""
    channels = []
    for index, field in enumerate(fields):
        try:
            channels.append(np.array([float(value) for value in field.split(",")]))
        except ValueError as error:
            raise _fault(field, f"{where}, channel {index}") from error
        if not np.isfinite(channels[-1]).all():
            raise _fault(field, f"{where}, channel {index}")
        if len(channels[-1]) != len(channels[0]):
            raise InputError(
                f"{where}, channel {index} has {len(channels[-1])} steps, but channel 0 has {len(channels[0])}, and "
                "all channels of a recording need the same; cut or fill it."
            )
    if not channels:
        raise InputError(f"{where} has a label but no values, and one channel at least is needed; leave the line out.")
    return np.stack(channels, axis=1)


def _fault(field: str, where: str) -> InputError:
    """The error that names the first value of a channel that is no finite number."""
    for step, value in enumerate(field.split(",")):
        text = value.strip()
        if text == "?" or not text:
            return InputError(
                f"{where}, step {step} (counted from 0) has a missing value ({text!r}), but a number is needed; fill "
                "the gap, or leave the line out."
            )
        if not (is_number(text) and math.isfinite(float(text))):
            return InputError(
                f"{where}, step {step} (counted from 0) holds {text!r}, but a finite number is needed; correct it."
            )
    return InputError(f"{where} cannot be read as numbers separated by commas; correct the line.")
