"""A trained model from its folder, with what was written down when it was trained."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from longstate import data, models
from longstate._checks import InputError, check_choice
from longstate.cli.prepare import locate
from longstate.data.recording import default_channels
from longstate.models import atomic

FACTS = "training.json"
DEVICES = ("auto", "cpu", "cuda", "mps")
SAME_RATE = 0.01
PARTS = ("train", "validation", "test")


class Trained(NamedTuple):
    """A model, its folder, and the facts of its training (empty if it was saved by hand)."""

    model: models.Model
    folder: Path
    facts: dict[str, Any]


def load_trained(folder: Path, *, device: str = "auto") -> Trained:
    """Load a model, or the one in the `model` folder of a run.

    Args:
        folder: Of the model or the run.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: If there is no usable model, or the device is not here.
    """
    inner = folder / "model"
    folder = inner if inner.is_dir() else folder
    model = models.load_model(folder).to(pick_device(device))
    return Trained(model, folder, read_facts(folder))


class TrainedText(NamedTuple):
    """A language model, its folder, and the facts of its training."""

    model: models.LanguageModel
    folder: Path
    facts: dict[str, Any]


def load_language_model(folder: Path, *, device: str = "auto") -> TrainedText:
    """Load a language model, or the one in the `model` folder of a run; otherwise as `load_trained`."""
    inner = folder / "model"
    folder = inner if inner.is_dir() else folder
    model = models.load(folder)
    if not isinstance(model, models.LanguageModel):
        raise InputError(
            f"`{folder}` holds a {type(model).__name__}, but a language model is needed; train one with "
            "`longstate fit TEXT`, or use `longstate predict` with this one."
        )
    return TrainedText(model.to(pick_device(device)), folder, read_facts(folder))


def is_language_model(folder: Path) -> bool:
    """Whether a folder (or the `model` in it) says that it holds a language model; whether it does, loading tells."""
    inner = folder / "model"
    path = (inner if inner.is_dir() else folder) / "config.json"
    try:
        return "language_model" in json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False


def read_facts(folder: Path) -> dict[str, Any]:
    """What `write_facts` wrote beside a model; nothing if there is nothing."""
    path = folder / FACTS
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); copy it again, or delete it: only facts are in it.") from error
    return facts if isinstance(facts, dict) else {}


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts of training beside a model."""
    atomic.write(folder / FACTS, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())


def read_for(model: models.Model, source: str, task: data.Task) -> data.Recordings:
    """Recordings with the channels of a model and, but for prediction, labelled by its classes.

    Raises:
        InputError: If the channels, the sampling rate or the labels are not those of the model.
    """
    config = model.config
    has_names = config.channels is not None and config.channels != default_channels(config.d_input)
    recordings = data.read(
        locate(source),
        task=task,
        channels=config.channels if has_names else None,
        targets=config.targets if isinstance(config, models.NumberConfig) else ("label",),
    )
    if len(recordings.channels) != config.d_input:
        raise InputError(
            f"{source} has {len(recordings.channels)} channels ({', '.join(recordings.channels)}), but the model takes "
            f"{config.d_input}; give recordings with the channels it was trained on."
        )
    ours, theirs = config.sampling_rate, recordings.sampling_rate
    if ours is not None and theirs is not None and abs(theirs / ours - 1) > SAME_RATE:
        raise InputError(
            f"{source} is sampled at {theirs:g} Hz, but the model was trained at {ours:g} Hz; resample the recordings, "
            f"or stream them with longstate.Session(model, rate={ours / theirs:g})."
        )
    if config.channels is not None and not has_names:
        recordings = dataclasses.replace(recordings, channels=config.channels)
    if task == "prediction" or isinstance(config, models.NumberConfig):
        return recordings
    if recordings.task == "prediction":
        raise InputError(
            f"{source} has no labels, but an evaluation compares with them; give a manifest with the columns path and "
            "label, or use `longstate predict`."
        )
    return recordings.with_classes(config.classes)


def part_of(recordings: data.Recordings, part: str, facts: Mapping[str, Any], source: str) -> data.Recordings:
    """The recordings of one part: as the source says, else as they were divided when the model was trained.

    Raises:
        InputError: If neither says it.
    """
    if part == "all":
        return recordings
    check_choice(part, ("all", *PARTS), name="--split")
    if any(recordings.splits):
        rows = [row for row, name in enumerate(recordings.splits) if (name or "train") == part]
    else:
        rows = rows_named(recordings, facts.get("parts", {}).get(part, ()))
    if not rows:
        raise InputError(
            f"no recording of {source} is known to belong to the {part} part; add a column `split` to the manifest, "
            "or leave --split out to take all."
        )
    return recordings.select(rows)


def rows_named(recordings: data.Recordings, names: Sequence[str]) -> list[int]:
    """Where recordings with these names stand."""
    wanted = set(names)
    return [row for row, name in enumerate(recordings.names) if name in wanted]


def pick_device(name: str) -> torch.device:
    """The device that a name means on this machine.

    Raises:
        InputError: If it is not here.
    """
    check_choice(name, DEVICES, name="device")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise InputError(f"`device` is {name!r}, but this machine has none; choose cpu or auto.")
    return torch.device(name)
