"""`longstate stream`: rows in, one line of probabilities out for each, for ever."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from longstate import models
from longstate._checks import InputError
from longstate.cli.answers import answer, names
from longstate.cli.pipe import Stop, blocks
from longstate.cli.rows import csv_rows, raw_rows
from longstate.cli.trained import load_trained
from longstate.inference import Session


def run_stream(folder: Path, *, raw: bool, every: int, state: Path | None) -> None:
    """Stream standard input through a model.

    Args:
        folder: The saved model.
        raw: Little-endian float32 records instead of lines of CSV.
        every: Print after every so many rows.
        state: Restored at the start if it exists; written at the end, at SIGINT and SIGTERM, and before an error of
            the input leaves the command.

    Raises:
        InputError: If the model, the state or a row cannot be used.
        SystemExit: 128 + the number of the signal that ended it.
    """
    if state is not None and not state.absolute().parent.is_dir():
        raise InputError(
            f"--state {state} is in no folder that is there; make {state.parent} first, or correct the path."
        )
    torch.set_num_threads(1)  # one row is too little work to share
    model = load_trained(folder, device="cpu").model
    session = Session(model)
    if state is not None and state.exists():
        session.restore(state)
    config = model.config
    with Stop() as stop:
        arriving = blocks(sys.stdin.fileno(), stop)
        rows = raw_rows(arriving, config.d_input) if raw else csv_rows(arriving, config.d_input, config.channels)
        try:
            stream_rows(session, config, rows, every=every, write=_write_line)
        finally:
            if state is not None:
                session.save(state)
    if stop.signal:
        raise SystemExit(128 + stop.signal)


def stream_rows(
    session: Session,
    config: models.ModelConfig,
    rows: Iterable[np.ndarray],
    *,
    every: int,
    write: Callable[[str], None],
) -> None:
    """Push rows and write what the model says of each, after a line that names the columns.

    Args:
        session: A running model of batch size 1.
        config: Its model's configuration.
        rows: Arrays (channels,).
        every: Write after every so many rows.
        write: Takes one line, without its end.
    """
    write(",".join(_quoted(name) for name in names(config)))
    for number, row in enumerate(rows, start=1):
        output = session.push(torch.from_numpy(row)[None])
        if number % every == 0:
            write(",".join(f"{value:.7g}" for value in answer(config, output)[0].tolist()))


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n') else name
