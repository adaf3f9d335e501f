"""From a configuration to what a run needs: recordings, their parts, and the model's own configuration."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from longstate import data, models
from longstate._checks import InputError
from longstate.cli.config import EVERY_STEP, DataSection, ModelSection, SplitSection
from longstate.data.statistics import Kind


def read_source(section: DataSection, task: data.Task) -> data.Recordings:
    """The recordings of a source, with the labels of a task."""
    return data.read(locate(section.source), task=task, channels=section.channels, targets=section.targets)


def locate(source: str) -> str:
    """`source`, where `package:NAME/PATH` stands for a file that an installed package carries.

    Raises:
        InputError: If the package is not installed.
    """
    if not source.startswith("package:"):
        return source
    package, _, inside = source.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise InputError(
            f"{source} is asked for, but the package {package!r} is not installed here; install it, or give a path."
        )
    return str(Path(spec.origin).parent / inside)


def divide(recordings: data.Recordings, section: SplitSection) -> data.Split:
    """Training, validation and test part; groups that are named go where the section puts them.

    Raises:
        InputError: If a group is unknown or on both sides, or no such division exists.
    """
    named = {"validation": section.validation_groups, "test": section.test_groups}
    if any(named.values()):
        recordings = dataclasses.replace(recordings, splits=_named_splits(recordings, named))
    return data.split(recordings, validation=section.validation, test=section.test, by=section.by, seed=section.seed)


def _named_splits(recordings: data.Recordings, named: dict[str, tuple[str, ...]]) -> tuple[str | None, ...]:
    present = recordings.groups or ()
    for part, groups in named.items():
        unknown = [group for group in groups if group not in present]
        if unknown:
            found = ", ".join(sorted(set(present))[:20]) or "none"
            raise InputError(
                f"`data.split.{part}_groups` names the group {unknown[0]!r}, but the groups are {found}; correct it."
            )
    both = set(named["validation"]) & set(named["test"])
    if both:
        raise InputError(
            f"the group {min(both)!r} is to validate and to test, but a group may be on one side only; "
            "take it out of `data.split.validation_groups` or `data.split.test_groups`."
        )
    sides = {group: part for part, groups in named.items() for group in groups}
    return tuple(sides.get(group) for group in present)


def model_config(section: ModelSection, train: data.Recordings, normalise: Kind) -> models.ModelConfig:
    """The model's own configuration: the section, and what the recordings that train decide.

    Args:
        section: What the user said of the model.
        train: The training part; its classes or targets, channels, sampling rate and statistics go into the model.
        normalise: "zscore", "minmax" or "none".

    Returns:
        What `models.build` takes.
    """
    values: dict[str, Any] = {
        "kind": section.kind,
        "d_input": len(train.channels),
        "channels": train.channels,
        "sampling_rate": train.sampling_rate,
        "backbone": dataclasses.asdict(section.backbone),
        "statistics": None if normalise == "none" else data.statistics(train, normalise)._asdict(),
    }
    if section.kind not in EVERY_STEP:
        values["pooling"] = section.pooling or "mean"
    if train.has_numbers:
        values["targets"] = train.targets
        values["target_statistics"] = data.target_statistics(train)._asdict()
    else:
        values["classes"] = train.classes
    return models.config_from_dict(values)
