"""`longstate stream`: rows in, one line of probabilities out for each, for ever."""

import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from os import close, pipe, read, set_blocking
from pathlib import Path
from types import TracebackType

from longstate._checks import InputError
from longstate.cli.rows import csv_rows, raw_rows
from longstate.cli.running import StreamingModel, answers, names

BLOCK = 65536


def run_stream(folder: Path, *, raw: bool, every: int, state: Path | None) -> None:
    """Stream standard input through a model.

    Args:
        folder: The saved model.
        raw: Little-endian float32 records instead of lines of CSV.
        every: Print after every so many rows.
        state: Restored at the start if it exists; written at the end, on SIGINT, on SIGTERM, and after a bad row.

    Raises:
        InputError: If the model, the state or a row cannot be used.
        SystemExit: 128 + the signal's number after a signal.
    """
    from longstate import models
    from longstate.cli.running import open_session, streaming

    model = streaming(models.load(folder), str(folder))
    session = open_session(model, state)
    with Stop() as stop:
        try:
            run(model, session.push, blocks(sys.stdin.fileno(), stop), sys.stdout.write, sys.stdout.flush, raw, every)
        finally:
            if state is not None:
                session.save(state)
    if stop.signal:
        raise SystemExit(128 + stop.signal)
