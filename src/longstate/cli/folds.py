"""Leave-one-group-out: a model for every group left out, each chosen on the other groups alone."""

import csv
import dataclasses
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longstate import data, training
from longstate._checks import InputError
from longstate.cli.config_file import Plan, to_yaml
from longstate.cli.console import print_table
from longstate.cli.prepare import read_source
from longstate.cli.runs import Options, facts, train
from longstate.cli.trained import write_facts
from longstate.models import atomic
from longstate.training.lightning_door import is_main_process

Fold = dict[str, Any]
"""What is kept of one group: group, count, score, the numbers behind it, the candidate and how all candidates did."""


def leave_one_group_out(plan: Plan, options: Options) -> None:
    """Train and test once for every group, and print and write how good it was.

    A fold that is done stays done: its `result.json` is taken when the run is resumed.

    Args:
        plan: The configuration and its candidates.
        options: How to run.

    Raises:
        InputError: If there are no groups, the folder belongs to another run, or several devices are asked for.
    """
    config = plan.config
    if config.training.devices > 1:
        raise InputError(
            f"`training.devices` is {config.training.devices}, but leave_one_group_out trains many small models one "
            "after the other on one device; set it to 1."
        )
    recordings = read_source(config.data, config.model.task)
    splits = list(
        data.leave_one_group_out(recordings, validation=config.data.split.validation, seed=config.data.split.seed)
    )
    folder = Path(config.output)
    claim(folder, to_yaml(plan.tree), resume=options.resume)
    folds: list[Fold] = []
    for number, split in enumerate(splits, start=1):
        group = (recordings.groups or ())[int(split.test[0])]
        say(f"group {group} is left out ({number} of {len(splits)})", options)
        place = folder / "folds" / f"{number:02d}-{_safe(group)}"
        folds.append(_fold(plan, recordings, split, group, place, options))
        if is_main_process():
            write_folds(folder, folds)
    if is_main_process():
        print_folds(folder, folds)


def _fold(
    plan: Plan, recordings: data.Recordings, split: data.Split, group: str, folder: Path, options: Options
) -> Fold:
    """Choose on the groups that train, train on all of them, test on the group that is left out."""
    kept = folder / "result.json"
    if kept.is_file():
        return json.loads(kept.read_bytes())
    rest = recordings.select(np.union1d(split.train, split.validation))
    name, scores = choose(plan, rest, folder / "choice", options)
    config = plan.config if name is None else plan.candidates[name]
    say(f"training on all {len(rest)} recordings of the other groups" + (f" as {name!r}" if name else ""), options)
    parts = {part: recordings.select(rows) for part, rows in split._asdict().items()}
    run = train(config, parts["train"], parts["validation"] if len(split.validation) else None, folder / "run", options)
    fold: Fold = {"group": group, **judged(training.evaluate(run.model, parts["test"]))}
    fold |= {"best_epoch": run.result.best_epoch, "candidate": name, "candidates": scores}
    if is_main_process():
        write_facts(run.result.folder / "model", facts(config, run, parts))
        atomic.write(kept, (json.dumps(fold, indent=1) + "\n").encode())
    return fold


def choose(
    plan: Plan, recordings: data.Recordings, folder: Path, options: Options
) -> tuple[str | None, dict[str, float]]:
    """The candidate that is best on held-back groups of these recordings, and how good each of them is.

    Every group is held back once: the groups are divided into `inner_folds` parts, and a candidate is trained
    without each part in turn.
    """
    if len(plan.candidates) < 2:
        return next(iter(plan.candidates), None), {}
    section = plan.config.data.split
    scores: dict[str, float] = {}
    for name, config in plan.candidates.items():
        right = weight = 0.0
        for number, held in enumerate(inner_parts(recordings, plan.config.evaluation.inner_folds, section.seed)):
            say(f"candidate {name!r}, inner part {number + 1}", options)
            fitted, validation = without(recordings, held, section.validation, section.seed)
            run = train(config, fitted, validation, folder / f"{_safe(name)}-{number + 1}", options)
            result = judged(training.evaluate(run.model, recordings.select(held)))
            right, weight = right + result["score"] * result["count"], weight + result["count"]
        scores[name] = right / weight
    return max(scores, key=lambda name: scores[name]), scores


def inner_parts(recordings: data.Recordings, count: int, seed: int) -> list[np.ndarray]:
    """The rows of each of `count` parts, whole groups of them, of about as many groups each."""
    groups = np.array(recordings.groups)
    names = np.unique(groups)
    if len(names) < count:
        raise InputError(
            f"`evaluation.inner_folds` is {count}, but only {len(names)} groups train when one is left out; set it to "
            f"{len(names)} at most."
        )
    shuffled = np.random.default_rng(seed).permutation(names)
    return [np.flatnonzero(np.isin(groups, part)) for part in np.array_split(shuffled, count)]


def without(
    recordings: data.Recordings, held: np.ndarray, validation: float, seed: int
) -> tuple[data.Recordings, data.Recordings | None]:
    """The recordings that are not held back, divided to train and, if a share is asked for, to validate."""
    rest = recordings.select(np.setdiff1d(np.arange(len(recordings)), held))
    if validation == 0:
        return rest, None
    rest = dataclasses.replace(rest, splits=(None,) * len(rest))
    parts = data.split(rest, validation=validation, by="group", seed=seed)
    return rest.select(parts.train), rest.select(parts.validation)


def judged(evaluation: training.Evaluation) -> Fold:
    """Count and score of an evaluation; the score is the accuracy, or for a regressor minus the loss."""
    if isinstance(evaluation, training.RegressionEvaluation):
        return {"count": evaluation.count, "score": -evaluation.loss}
    return {
        "count": evaluation.count,
        "score": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "confusion": [list(row) for row in evaluation.confusion],
    }


def means(folds: Sequence[Fold]) -> dict[str, float]:
    """The score over all folds: each recording counting the same, and each group counting the same."""
    scores, counts = np.array([fold["score"] for fold in folds]), np.array([fold["count"] for fold in folds])
    return {"by_recording": float((scores * counts).sum() / counts.sum()), "by_group": float(scores.mean())}


def write_folds(folder: Path, folds: Sequence[Fold]) -> None:
    """`folds.csv` and `folds.json`, of the folds that are done."""
    text = io.StringIO()
    columns = ("group", "count", "score", "best_epoch", "candidate")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([fold[column] for column in columns] for fold in folds)
    atomic.write(folder / "folds.csv", text.getvalue().encode())
    content: Mapping[str, Any] = {"folds": list(folds), "mean": means(folds)}
    atomic.write(folder / "folds.json", (json.dumps(content, indent=1) + "\n").encode())


def print_folds(folder: Path, folds: Sequence[Fold]) -> None:
    """The table for a person."""
    chosen = any(fold["candidate"] for fold in folds)
    rows = [
        (fold["group"], fold["count"], f"{fold['score']:.3f}", *([fold["candidate"]] if chosen else []))
        for fold in sorted(folds, key=lambda fold: (len(fold["group"]), fold["group"]))
    ]
    print_table("Each group by a model that never saw it", ("group", "count", "score", *(["candidate"] * chosen)), rows)
    mean = means(folds)
    print(f"mean by recording {mean['by_recording']:.4f}, mean by group {mean['by_group']:.4f}")
    print(f"{folder} holds folds.csv and folds.json, and a model for every group in folds/.")


def claim(folder: Path, text: str, *, resume: bool) -> None:
    """Write down what runs here, or see that it is the same.

    Raises:
        InputError: If another configuration ran here, or this one did and is not to be resumed.
    """
    written = folder / "config.yaml"
    if not resume and (written.exists() or (folder / "folds").exists()):
        raise InputError(f"{folder} holds a run already; continue it with --resume, or choose another --output.")
    if written.exists():
        if is_main_process() and written.read_text() != text:
            raise InputError(
                f"{folder} was started with another configuration ({written}), but a resumed run must be what it was; "
                "restore that, or choose another --output."
            )
    elif is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(written, text.encode())


def say(text: str, options: Options) -> None:
    """A line about what comes next, where it goes on being shown."""
    if options.progress and is_main_process():
        print(text, file=sys.stderr)


def _safe(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w.-]", "_", name)
