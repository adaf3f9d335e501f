"""Reading a source of recordings, whatever it is."""

from collections.abc import Sequence
from pathlib import Path

from longstate._checks import InputError, check_choice
from longstate.data.folder import read_folder, read_single
from longstate.data.manifest import is_manifest, read_manifest
from longstate.data.recording import existing_file
from longstate.data.recording_file import SUFFIXES
from longstate.data.recordings import TASKS, Recordings, Task
from longstate.data.synthetic import PREFIX, read_synthetic
from longstate.data.ucr import read_ucr
from longstate.data.uea import read_uea
from longstate.data.watch import read_watch

ARCHIVES = {".ts": read_uea, ".tsv": read_ucr}
TABLES = (".csv", ".parquet")


def read(
    source: str | Path,
    *,
    task: Task = "classification",
    channels: Sequence[str] | None = None,
    targets: Sequence[str] = ("label",),
) -> Recordings:
    r"""Read recordings from whatever `source` is.

    Args:
        source: "watch" for the packaged smartwatch recordings; `task:NAME?OPTIONS` for a synthetic task
            (`longstate.data.synthetic`); a manifest (a CSV or Parquet table with a column `path`); a `.ts` file (UEA,
            sktime, aeon) or a `.tsv` file (UCR), each with the TEST file beside its TRAIN file; or, without labels, one
            recording file or a folder of them.
        task: "classification" (a class a recording), "tagging" (a class a step), "regression" (numbers a recording),
            "step_regression" (numbers a step), or "prediction" (labels are neither needed nor read).
        channels: The channels wanted, in this order, from recording files that name theirs. All if None.
        targets: The columns of a manifest that hold the targets of a regression.

    Returns:
        The recordings. Where a source has no labels, every class is -1 and `classes` is empty.

    Raises:
        InputError: If anything is missing or cannot be used; it names the file, the row and the value.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     _ = (folder / "a.csv").write_text("ax,ay\n0,1\n2,3\n")
        ...     _ = (folder / "b.csv").write_text("ax,ay\n4,5\n")
        ...     _ = (folder / "manifest.csv").write_text("path,label\na.csv,walk\nb.csv,run\n")
        ...     recordings = read(folder / "manifest.csv")
        >>> recordings
        Recordings(2 recordings, 1 to 2 steps, 2 channels, 2 classes)
    """
    check_choice(task, TASKS, name="task")
    recordings = _read(source, task, channels, targets)
    if channels is not None:
        recordings = recordings.with_channels(channels)
    if task == "prediction":
        return recordings.without_labels()
    if recordings.task not in (task, "prediction"):
        raise InputError(
            f"{source} holds labels for {recordings.task}, but {task} is wanted; choose that task, or write a manifest."
        )
    return recordings


def _read(source: str | Path, task: Task, channels: Sequence[str] | None, targets: Sequence[str]) -> Recordings:
    """The reader that fits the source."""
    if source == "watch":
        return read_watch()
    if str(source).startswith(PREFIX):
        return read_synthetic(str(source))
    path = Path(source)
    if path.is_dir():
        return read_folder(path, channels=channels)
    path = existing_file(path)
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        return ARCHIVES[suffix](path, task=task)
    if suffix in TABLES and is_manifest(path):
        return read_manifest(path, task=task, channels=channels, targets=targets)
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path} ends in {path.suffix or 'no suffix'!r}, but a source ends in {', '.join(('.ts', *SUFFIXES))}, or "
            "is a folder; convert it, or write a manifest that names the files."
        )
    return read_single(path, channels=channels)
