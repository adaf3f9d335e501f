import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longstate._checks import InputError
from longstate.cli.rows import LONGEST_LINE, csv_rows, raw_rows

NAMES = ("ax", "ay", "az")
floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
tables = st.lists(st.tuples(floats32, floats32, floats32), min_size=1, max_size=8)


def cut(content: bytes, places: list[int]) -> list[bytes]:
    """Content in blocks, ended by the empty block of a pipe that was closed."""
    marks = sorted({place % (len(content) + 1) for place in places} | {0, len(content)})
    return [content[a:b] for a, b in itertools.pairwise(marks)] + [b""]


@given(tables, st.lists(st.integers(0, 10_000), max_size=5))
def test_raw_records_in_any_cut(table, places) -> None:
    values = np.array(table, "<f4")
    rows = list(raw_rows(cut(values.tobytes(), places), 3))
    np.testing.assert_array_equal(rows, values)
    assert all(row.dtype == np.float32 for row in rows)


@given(tables, st.lists(st.integers(0, 10_000), max_size=5), st.sampled_from([",", ";", "\t", " , "]), st.booleans())
def test_lines_in_any_cut_and_with_any_separator(table, places, separator, header) -> None:
    lines = [separator.join(NAMES)] * header + [separator.join(repr(value) for value in row) for row in table]
    content = ("\ufeff" * header + "\r\n".join(lines) + "\n\n").encode()
    rows = list(csv_rows(cut(content, places), 3, NAMES))
    np.testing.assert_array_equal(rows, np.array(table, np.float32))


def rows_of(text: str, channels: tuple[str, ...] | None = NAMES) -> list[list[float]]:
    return [row.tolist() for row in csv_rows([text.encode(), b""], 3, channels)]


def test_a_header_chooses_columns_by_name() -> None:
    assert rows_of('time,"az",ay,ax\n9,3,2,1\n') == [[1, 2, 3]]
    assert rows_of("time,a,b\n1,2,3", None) == [[1, 2, 3]]


def test_the_last_line_needs_no_end_unless_a_signal_cut_it_off() -> None:
    assert rows_of("1,2,3\n4,5,6") == [[1, 2, 3], [4, 5, 6]]
    assert len(list(csv_rows([b"1,2,3\n4,5,6"], 3, NAMES))) == 1


def test_rows_come_as_soon_as_they_are_whole() -> None:
    def blocks():
        yield b"1,2,3\n4,5"
        raise AssertionError("the first row was not given out")

    assert next(csv_rows(blocks(), 3, NAMES)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n1,2\n", r"row 2: 2 values came, but 3 are needed for the 3 channels of the model \(ax, ay, az\)"),
        ("1,2,3,4\n", r"row 1: 4 values came, but 3 are needed"),
        ("t,ax,ay,az\n1,2,3\n", r"row 1: 3 values came, but 4 are needed"),
        ("1,2,3\n\n1,nan,3\n", r"row 2: nan in channel 2 is not a finite float32 number"),
        ("1,2,1e39\n", r"row 1: 1e39 in channel 3 is not a finite float32 number"),
        ("1,2,-inf\n", r"row 1: -inf in channel 3"),
        ("1,2,\n", r"row 1: '' in column 3 is not a number"),
        ("ax,ay,az\n1,2,x\n", r"row 1: 'x' in column 3 is not a number"),
        ("1,x,3\n", r"row 1: 'x' in column 2 is not a number"),
        ("ax,ay,aw\n", r"standard input has the columns ax, ay, aw, but az is needed too"),
        ("\x00\x01\x02\n", r"standard input"),
    ],
)
def test_a_bad_line_is_named_with_its_value(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(text)


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    with pytest.raises(InputError, match=r"a line is longer than 1048576 bytes.*for binary input give --raw"):
        list(csv_rows((b"1" * 65536 for _ in range(LONGEST_LINE)), 3, NAMES))


def test_a_raw_record_that_ends_early() -> None:
    with pytest.raises(InputError, match=r"row 2: the input ends after 5 of the 12 bytes of a row of 3 float32"):
        list(raw_rows([b"\0" * 17, b""], 3))
    assert len(list(raw_rows([b"\0" * 17], 3))) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_raw_value_that_is_not_finite(value: float) -> None:
    content = np.array([[1, 2, 3], [1, value, 3]], "<f4").tobytes()
    with pytest.raises(InputError, match=rf"row 2: {value} in channel 2 is not a finite float32 number"):
        list(raw_rows([content, b""], 3))
