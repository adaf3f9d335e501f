"""The only file that imports pyarrow: the columns of a Parquet file."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from longstate._checks import InputError
from longstate.data.recording import Recording, channel_indices, checked_values

ROW_NUMBERS = "__index_level_"  # the name that pandas gives to its row labels


def read_parquet_recording(path: Path, channels: Sequence[str] | None = None) -> Recording:
    """One recording from a Parquet file whose columns are channels."""
    names = column_names(path)
    if not names:
        raise InputError(
            f"{path} has no columns, but one channel at least is needed; save the recording with its channels as "
            "columns."
        )
    names = tuple(names[index] for index in channel_indices(path, names, len(names), channels))
    columns = read_columns(path, names)
    for name, column in columns.items():
        if column.dtype.kind not in "fiub":
            raise InputError(
                f"{path}, column {name} holds values of type {column.dtype}, but numbers are needed; "
                "correct it, or leave out columns without numbers."
            )
    return Recording(checked_values(np.stack(list(columns.values()), axis=1), path), names)


def column_names(path: Path) -> tuple[str, ...]:
    """The names of the columns."""
    pyarrow, parquet = _pyarrow()
    try:
        names = parquet.read_schema(path).names
    except (pyarrow.ArrowException, OSError) as error:
        raise _unusable(path) from error
    return tuple(name for name in names if not name.startswith(ROW_NUMBERS))


def read_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named columns as arrays; a missing number is NaN, a missing text None."""
    pyarrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path, columns=list(names))
    except (pyarrow.ArrowException, OSError) as error:
        raise _unusable(path) from error
    return {name: table.column(name).to_numpy() for name in names}


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "a Parquet file was given, but reading one needs the package pyarrow; run `pip install 'longstate[data]'`, "
            "or save the table as CSV."
        ) from error
    return pyarrow, parquet


def _unusable(path: Path) -> InputError:
    return InputError(
        f"{path} cannot be read as Parquet, but a whole Parquet file is needed; it may be cut off or of another kind, "
        "so copy or save it again."
    )
