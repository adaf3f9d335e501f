"""Rows of numbers out of a stream of bytes: lines of CSV, or raw little-endian float32 records."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from longstate._checks import InputError
from longstate.data.recording import channel_indices, default_channels

LONGEST_LINE = 1 << 20


def raw_rows(blocks: Iterable[bytes], width: int) -> Iterator[np.ndarray]:
    """Records of `width` little-endian float32 numbers.

    Args:
        blocks: Bytes in any cut; an empty block marks the end of the input.
        width: Numbers a record: the channels of the model.

    Yields:
        float32 arrays (width,).

    Raises:
        InputError: At a number that is not finite, or a part of a record at the end.
    """
    size, buffer, number = 4 * width, b"", 0
    for block in blocks:
        if not block and buffer:
            raise InputError(
                f"standard input, row {number + 1}: the input ends after {len(buffer)} of the {size} bytes of a row of "
                f"{width} float32 numbers; send whole rows, or check the number of channels."
            )
        buffer += block
        whole = len(buffer) // size * size
        for row in np.frombuffer(buffer[:whole], "<f4").reshape(-1, width).astype(np.float32):
            number += 1
            _check_finite(row, number, [str(value) for value in row])
            yield row
        buffer = buffer[whole:]


def csv_rows(blocks: Iterable[bytes], width: int, channels: Sequence[str] | None) -> Iterator[np.ndarray]:
    """Lines of `width` numbers between commas, semicolons or tabs; a first line of names chooses columns by name.

    Args:
        blocks: Bytes in any cut; an empty block marks the end of the input.
        width: The channels of the model.
        channels: Their names, if the model knows them.

    Yields:
        float32 arrays (width,).

    Raises:
        InputError: At a line of another width, or a value that is not a finite number.
    """
    number, delimiter, columns, count = 0, None, list(range(width)), width
    for line in _lines(blocks):
        opening = delimiter is None
        delimiter = delimiter or next((mark for mark in "\t;" if mark in line), ",")
        cells = [cell.strip() for cell in line.split(delimiter)]
        if opening and not any(_is_number(cell) for cell in cells):
            header, count = tuple(cell.strip("\"'") for cell in cells), len(cells)
            columns = channel_indices("standard input", header, count, channels or default_channels(width))
            continue
        number += 1
        if len(cells) != count:
            raise InputError(
                f"standard input, row {number}: {len(cells)} values came, but {count} are needed for the {width} "
                f"channels of the model{_named(channels)}; send {count} values a line, separated by commas."
            )
        values = [_number(cells[column], number, column) for column in columns]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
            row = np.array(values, np.float32)
        _check_finite(row, number, [cells[column] for column in columns])
        yield row


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Lines that hold something; the last one needs no line end, unless a signal cut it off."""
    buffer, first = b"", True
    for block in blocks:
        *lines, buffer = (buffer + block if block else buffer + b"\n").split(b"\n")
        if len(buffer) > LONGEST_LINE:
            raise InputError(
                f"standard input: a line is longer than {LONGEST_LINE} bytes, but one line a row of numbers is needed; "
                "for binary input give --raw."
            )
        for line in lines:
            text = line.decode("utf-8-sig" if first else "utf-8", "replace").strip()
            first = False
            if text:
                yield text


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, number: int, column: int) -> float:
    try:
        return float(cell)
    except ValueError:
        raise InputError(
            f"standard input, row {number}: {cell[:40]!r} in column {column + 1} is not a number; "
            "fill gaps before streaming, and give --raw for binary input."
        ) from None


def _check_finite(row: np.ndarray, number: int, cells: Sequence[str]) -> None:
    if not np.isfinite(row).all():
        column = int(np.flatnonzero(~np.isfinite(row))[0])
        raise InputError(
            f"standard input, row {number}: {cells[column]} in channel {column + 1} is not a finite float32 number; "
            "fill gaps before streaming, for a state never forgets a NaN."
        )


def _named(channels: Sequence[str] | None) -> str:
    return f" ({', '.join(channels)})" if channels else ""
