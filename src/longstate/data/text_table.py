"""Numbers in delimited text: parsed by numpy, and read again line by line only to say what is wrong and where."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longstate._checks import InputError
from longstate.data.recording import Recording, channel_indices, checked_values, not_text

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Opening(NamedTuple):
    """The first line that is not blank: its number (from 1), its separator, its fields, and whether they are names."""

    line: int
    delimiter: str
    fields: tuple[str, ...]
    is_header: bool


def read_text_recording(path: Path, channels: Sequence[str] | None = None) -> Recording:
    """One recording from comma, semicolon or tab separated text, with or without a header of channel names."""
    opening = read_opening(path)
    names = _channel_names(path, opening) if opening.is_header else None
    columns = channel_indices(path, names, len(opening.fields), channels)
    values = parse_numbers(path, opening, columns=columns)
    return Recording(checked_values(values, path), tuple(names[i] for i in columns) if names else None)


def read_opening(path: Path) -> Opening:
    """The first line that is not blank, split at a tab, else a semicolon, else a comma."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    delimiter = next((mark for mark in "\t;" if mark in line), ",")
                    fields = tuple(field.strip() for field in next(csv.reader([line], delimiter=delimiter)))
                    return Opening(number, delimiter, fields, not all(map(is_number, fields)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise not_text(path) from error
    raise InputError(f"{path} holds blank lines only, but rows of numbers are needed; copy it again or leave it out.")


def parse_numbers(
    path: Path, opening: Opening, *, columns: Sequence[int] | None = None, gaps: bool = False
) -> np.ndarray:
    """The numbers below the header, float32 (rows, columns); NaN is let through if `gaps`."""
    skip = opening.line if opening.is_header else 0
    wanted = range(len(opening.fields)) if columns is None else columns
    everything = list(wanted) == list(range(len(opening.fields)))
    if not _has_rows(path, skip):
        raise InputError(
            f"{path} has a header but no rows, but one row at least is needed; record again or leave it out."
        )
    try:
        values = np.loadtxt(
            path,
            dtype=np.float32,
            comments=None,
            delimiter=opening.delimiter,
            skiprows=skip,
            usecols=None if everything else wanted,  # given columns would hide a line that has too many fields
            ndmin=2,
            encoding="utf-8-sig",
            quotechar='"',
        )
    except UnicodeDecodeError as error:
        raise not_text(path) from error
    except ValueError as error:
        raise _fault(path, opening, wanted, gaps, reason=str(error)) from error
    if values.shape[1] != len(wanted) or not (gaps or np.isfinite(values).all()):
        raise _fault(path, opening, wanted, gaps, reason="it holds a value that is not finite")
    return values


def is_number(text: str) -> bool:
    """Whether `text` is a number, NaN and infinity included; Python's underscores within numbers are not allowed."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _channel_names(path: Path, opening: Opening) -> tuple[str, ...]:
    """The fields of a header, if they can be the names of channels."""
    fields, where = opening.fields, f"{path}, line {opening.line}"
    if "" in fields and not any(map(is_number, fields)):
        raise InputError(
            f"{where} has no name for column {fields.index('') + 1}, but every channel needs one; name it, or leave "
            "out a column of row numbers (pandas: `to_csv(index=False)`)."
        )
    if any(map(is_number, fields)):
        word = next(field for field in fields if not is_number(field))
        raise InputError(
            f"{where} holds numbers and {word!r}, but numbers alone, or channel names alone, are needed; correct it."
        )
    if len(set(fields)) < len(fields):
        name = next(field for field in fields if fields.count(field) > 1)
        raise InputError(f"{where} names two columns {name!r}, but channels need different names; rename one.")
    return fields


def _has_rows(path: Path, skip: int) -> bool:
    """Whether anything but blank lines follows the first `skip` lines."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return any(line.strip() for number, line in enumerate(file) if number >= skip)


def _fault(path: Path, opening: Opening, columns: Sequence[int], gaps: bool, reason: str) -> InputError:
    """The error that names the first line and value that is not as it should be."""
    width = len(opening.fields)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=opening.delimiter)
            for fields in reader:
                line = reader.line_num
                if not fields or (opening.is_header and line <= opening.line):
                    continue
                if len(fields) != width:
                    return InputError(
                        f"{path}, line {line} has {len(fields)} fields, but {width} are needed as on line "
                        f"{opening.line}; complete it, or delete it if the file was cut off there."
                    )
                for column in columns:
                    problem = _problem(fields[column].strip(), opening.delimiter, gaps)
                    if problem:
                        name = f" ({opening.fields[column]})" if opening.is_header else ""
                        return InputError(f"{path}, line {line}, column {column + 1}{name} {problem}")
    except (UnicodeDecodeError, csv.Error):
        return not_text(path)
    return InputError(f"{path} cannot be read as rows of numbers ({reason}); write plain numbers, one row a line.")


def _problem(field: str, delimiter: str, gaps: bool) -> str | None:
    """What is wrong with one field, to be put after its place; None if nothing is."""
    if not field:
        return "is empty, but a number is needed; fill the gap, or cut the recording there."
    if not is_number(field):
        decimal_comma = delimiter == ";" and is_number(field.replace(",", "."))
        remedy = "write decimals with a point" if decimal_comma else "correct it, or leave out columns without numbers"
        return f"holds {field!r}, but a number is needed; {remedy}."
    value = float(field)
    if math.isnan(value) and gaps:
        return None
    if not math.isfinite(value):
        return f"holds {field!r}, but finite numbers are needed; fill the gap, or cut the recording there."
    if abs(value) > FLOAT32_MAX:
        return f"holds {field!r}, but float32 ends at 3.4e38; rescale the channel."
    return None
