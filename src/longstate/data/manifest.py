"""A manifest: a table that names a recording a row, with its label, its group and its split."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longstate._checks import InputError
from longstate.data.arrays import from_arrays
from longstate.data.folder import read_files
from longstate.data.labels import check_class_name, parse_target
from longstate.data.parquet import column_names, read_columns
from longstate.data.recording import existing_file, not_text
from longstate.data.recording_file import read_recording
from longstate.data.recordings import SPLITS, Recordings, Task
from longstate.data.step_labels import read_step_labels
from longstate.data.text_table import is_number, read_opening


class Row(NamedTuple):
    """One row: where it stands, and its cells by column."""

    where: str
    cells: dict[str, str]


def is_manifest(path: Path) -> bool:
    """Whether a CSV or Parquet file is a manifest (it has a column `path`) and not a recording."""
    names = column_names(path) if path.suffix.lower() == ".parquet" else read_opening(path).fields
    return "path" in names


def read_manifest(
    path: str | Path,
    *,
    task: Task = "classification",
    channels: Sequence[str] | None = None,
    targets: Sequence[str] = ("label",),
) -> Recordings:
    """Read the recordings that a manifest names.

    Args:
        path: A CSV or Parquet table with the columns `path` (relative to the manifest) and `label`; or `labels_path`
            for tagging and step regression; for regression the columns named in `targets`; for prediction `path` alone.
            It may have `split` (train, validation, test), `group`, and `sampling_rate` in Hz; other columns are passed
            over.
        task: What the labels are for.
        channels: The channels wanted, in this order. All if None.
        targets: The columns that hold the targets of a regression: of the manifest, or for step regression of the
            files that it names.

    Returns:
        The recordings in the order of the rows.

    Raises:
        InputError: If a column, a file or a label is missing, or a value cannot be used; it names the row.
    """
    path = existing_file(path)
    labelled = {"classification": ("label",), "regression": tuple(targets), "prediction": ()}
    rows = _read_rows(path, needed=("path", *labelled.get(task, ("labels_path",))))
    files = _recording_paths(rows, path.parent)
    values = read_files(files, channels=channels)
    cells = {name: [row.cells[name] for row in rows] for name in rows[0].cells}
    groups = cells.get("group")
    if groups is not None:
        _check_groups(rows)
    labels = _labels(rows, task, tuple(targets), path.parent, [len(x) for x in values.x])
    return from_arrays(
        values.x,
        labels,
        task=task,
        groups=groups,
        splits=[_split(row) for row in rows],
        names=cells["path"],
        channels=values.channels,
        sampling_rate=_sampling_rate(rows, values.sampling_rate),
        targets=targets,
    )


def _read_rows(path: Path, needed: tuple[str, ...]) -> list[Row]:
    """Every row that is not blank, once the needed columns are known to be there."""
    if path.suffix.lower() == ".parquet":
        columns = {name: column.tolist() for name, column in read_columns(path, column_names(path)).items()}
        table = [list(columns), *([_text(cell) for cell in cells] for cells in zip(*columns.values(), strict=True))]
        places = [f"{path}, row {number} (counted from 0)" for number in range(-1, len(table) - 1)]
    else:
        table, places = _read_csv(path)
    header = [name.strip() for name in table[0]]
    missing = [name for name in needed if name not in header]
    if missing:
        raise InputError(
            f"{path} has the columns {', '.join(header)}, but a manifest needs {', '.join(needed)}; add "
            f"{', '.join(missing)}."
        )
    if len(table) == 1:
        raise InputError(f"{path} names no recordings, but one row at least is needed; add a row for each file.")
    for place, fields in zip(places, table, strict=True):
        if len(fields) != len(header):
            raise InputError(
                f"{place} has {len(fields)} fields, but {len(header)} are needed as in the header; complete the row, "
                "or put a field that holds the separator in quotes."
            )
    return [
        Row(place, dict(zip(header, fields, strict=True))) for place, fields in zip(places[1:], table[1:], strict=True)
    ]


def _read_csv(path: Path) -> tuple[list[list[str]], list[str]]:
    """The header and the rows, and the place of each."""
    delimiter = read_opening(path).delimiter
    table, places = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for fields in reader:
                if any(field.strip() for field in fields):
                    table.append([field.strip() for field in fields])
                    places.append(f"{path}, line {reader.line_num}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise not_text(path) from error
    return table, places


def _text(cell: object) -> str:
    """A cell of a Parquet table as a CSV file would hold it."""
    missing = cell is None or (isinstance(cell, float) and np.isnan(cell))
    return "" if missing else str(cell).strip()


def _recording_paths(rows: list[Row], folder: Path) -> list[Path]:
    """The files of the rows, each there and named once."""
    seen: dict[Path, str] = {}
    for where, cells in rows:
        file = folder / cells["path"]
        if not cells["path"] or not file.is_file():
            raise InputError(
                f"{where} names the recording {cells['path']!r}, but no such file is in {folder}; correct the path, "
                "which is relative to the manifest."
            )
        if file in seen:
            raise InputError(
                f"{where} names {cells['path']!r} again after {seen[file]}, but each recording may be named once; "
                "delete one row."
            )
        seen[file] = where
    return list(seen)


def _labels(
    rows: list[Row], task: Task, targets: tuple[str, ...], folder: Path, lengths: list[int]
) -> list[str] | list[list[float]] | list[np.ndarray] | None:
    """What `from_arrays` takes as labels."""
    if task == "classification":
        return [check_class_name(cells["label"], where) for where, cells in rows]
    if task == "regression":
        return [[parse_target(cells[name], where, name) for name in targets] for where, cells in rows]
    if task == "prediction":
        return None
    labels = []
    for (where, cells), length in zip(rows, lengths, strict=True):
        if not cells["labels_path"]:
            what = "a class" if task == "tagging" else "numbers"
            raise InputError(f"{where} has an empty `labels_path`, but a file with {what} a step is needed; name it.")
        file = folder / cells["labels_path"]
        steps = read_step_labels(file) if task == "tagging" else read_recording(file, channels=targets).x
        if len(steps) != length:
            raise InputError(
                f"{where}: {cells['labels_path']} has {len(steps)} labels, but {cells['path']} has {length} steps and "
                "needs one a step; cut the longer of the two."
            )
        labels.append(steps)
    return labels


def _split(row: Row) -> str | None:
    split = row.cells.get("split") or None
    if split is not None and split not in SPLITS:
        raise InputError(f"{row.where} has the split {split!r}, but one of {', '.join(SPLITS)} is needed; correct it.")
    return split


def _check_groups(rows: list[Row]) -> None:
    for where, cells in rows:
        if not cells["group"]:
            raise InputError(f"{where} has an empty `group`, but every row needs one; name it, or drop the column.")


def _sampling_rate(rows: list[Row], of_files: float | None) -> float | None:
    """The one rate that the rows and the files agree on."""
    rate, source = of_files, "the files"
    for where, cells in rows:
        text = cells.get("sampling_rate", "")
        if not text:
            continue
        if not is_number(text) or not 0 < float(text) < float("inf"):
            raise InputError(
                f"{where} has the sampling rate {text!r}, but a positive number in Hz is needed; correct it."
            )
        if rate is not None and float(text) != rate:
            raise InputError(
                f"{where} has the sampling rate {text} Hz, but {source} have {rate:g} Hz, and all recordings need the "
                "same; resample, or correct the number."
            )
        rate, source = float(text), "the rows before"
    return rate
