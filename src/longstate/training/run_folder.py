"""The folder of a run: its files, and what it says of itself."""

import csv
import hashlib
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from longstate import __version__
from longstate._checks import InputError
from longstate.data import Documents, Recordings
from longstate.models import LanguageModelConfig, ModelConfig, atomic, config_to_dict
from longstate.training.config import RunConfig
from longstate.training.standing import CHECKPOINT_KEY, Row, Standing


class RunFolder:
    """`run.json`, `log.csv`, `curves.png`, `checkpoints/last.ckpt` and the best model in `model/`.

    Args:
        path: The folder; it is made when something is written.
        columns: Of the log.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]) -> None:
        self.path = Path(path)
        self.columns = tuple(columns)
        self.run = self.path / "run.json"
        self.log = self.path / "log.csv"
        self.curves = self.path / "curves.png"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.model = self.path / "model"

    def begin(self, description: Mapping[str, Any]) -> None:
        """Write down a new run.

        Raises:
            InputError: If the folder holds a run already.
        """
        if self.checkpoint.exists() or self.model.exists():
            raise InputError(
                f"{self.path} holds a run or a model already, but a new run needs its own folder; choose another, or "
                "continue that run with `resume=True` (on the command line `--resume`)."
            )
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{self.path} is not a folder, but a folder is needed; choose another path.") from None
        self.log.unlink(missing_ok=True)
        atomic.write(self.run, (json.dumps(description, indent=2) + "\n").encode())

    def continues(self, description: Mapping[str, Any]) -> Standing:
        """Where the run of this folder stands, if it is the run that is described.

        Raises:
            InputError: If there is no checkpoint, or another configuration, model or data made it.
        """
        if not self.checkpoint.is_file() or not self.run.is_file():
            raise InputError(
                f"{self.path} holds no checkpoint to continue from, but `resume` needs one; start the run without it."
            )
        try:
            before = json.loads(self.run.read_text())
        except json.JSONDecodeError as error:
            raise InputError(
                f"{self.run} is not JSON ({error}), but the description of the run is needed; restore that file."
            ) from error
        for part in ("training", "model", "train", "validation"):
            changed = _difference(before.get(part), description[part], part)
            if changed is not None:
                raise InputError(
                    f"{self.path} cannot be continued: {changed}, but a resumed run must be what it was; restore that, "
                    "or start a new run in another folder."
                )
        standing = self.standing()
        self.write_log(self.rows_before(standing.epoch + 1))
        return standing

    def standing(self) -> Standing:
        """Where the last checkpoint stands."""
        try:
            checkpoint = torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise self._no_checkpoint(str(error).splitlines()[0]) from error
        if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
            raise self._no_checkpoint(f"it has no entry {CHECKPOINT_KEY!r}")
        return Standing.from_dict(checkpoint[CHECKPOINT_KEY])

    def _no_checkpoint(self, reason: str) -> InputError:
        return InputError(
            f"{self.checkpoint} is not a checkpoint of a run ({reason}), but one is needed; "
            "start the run again in another folder."
        )

    def rows_before(self, epoch: int) -> list[dict[str, str]]:
        """The rows of the log for the epochs before one."""
        if not self.log.exists():
            return []
        with self.log.open(newline="") as file:
            return [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]

    def add_row(self, row: Row) -> None:
        """Write the row of an epoch after those of the epochs before it."""
        texts = {name: "" if row[name] is None else f"{row[name]:.6g}" for name in self.columns}
        texts |= {name: str(row[name]) for name in ("epoch", "step")}
        self.write_log([*self.rows_before(int(texts["epoch"])), texts])

    def write_log(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Replace the log."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic.write(self.log, text.getvalue().encode())


def describe_run(
    config: RunConfig,
    model: ModelConfig | LanguageModelConfig,
    train: Mapping[str, Any],
    validation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What `run.json` holds: everything that decides the numbers of a run."""
    return {
        "longstate": __version__,
        "torch": str(torch.__version__),
        "training": json.loads(json.dumps(asdict(config))),  # as it is read back: lists, no tuples
        "model": json.loads(json.dumps(config_to_dict(model))),
        "train": train,
        "validation": validation,
    }


def describe_recordings(recordings: Recordings) -> dict[str, Any]:
    """What recordings are, with a digest of every value and label."""
    values, labels = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for row, label in zip(recordings.x, recordings.y, strict=True):
        values.update(str(row.shape).encode() + row.tobytes())
        labels.update(label.tobytes())
    return {
        "recordings": len(recordings),
        "channels": list(recordings.channels),
        "classes": list(recordings.classes),
        "targets": list(recordings.targets),
        "sampling_rate": recordings.sampling_rate,
        "values": values.hexdigest(),
        "labels": labels.hexdigest(),
    }


def describe_documents(documents: Documents) -> dict[str, Any]:
    """What documents are, with a digest of every token."""
    counts = {"documents": len(documents), "tokens": documents.tokens, "bytes": documents.bytes}
    return {**counts, "texts": documents.digest()}


def _difference(before: Any, now: Any, path: str) -> str | None:
    """The first setting that changed, as words; None if nothing did."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in [*before, *(name for name in now if name not in before)]:
            changed = _difference(before.get(name), now.get(name), f"{path}.{name}")
            if changed is not None:
                return changed
        return None
    if before == now:
        return None
    if isinstance(before, Mapping) and now is None:
        return f"`{path}` was given and is not now"
    if isinstance(now, Mapping) and before is None:
        return f"`{path}` was not given and is now"
    part, _, what = path.partition(".")
    if what in ("values", "labels", "texts"):
        kind = "documents" if what == "texts" else "recordings"
        return f"the {what} of the {part} {kind} are not those it was started with"
    return f"`{path}` was {before!r} and is {now!r}"
