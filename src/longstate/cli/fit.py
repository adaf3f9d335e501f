"""`longstate fit`: from recordings to a model that knows how good it is."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longstate import ops, training
from longstate.cli import watch
from longstate.cli.config import FitConfig, kind_of
from longstate.cli.config_file import Plan, TextPlan, parse_override, plan_from_tree, read_config, to_tree, to_yaml
from longstate.cli.evaluate import UP_TO, print_evaluation
from longstate.cli.fit_text import fit_documents
from longstate.cli.folds import leave_one_group_out
from longstate.cli.prepare import divide, read_source
from longstate.cli.runs import Options, Run, facts, train
from longstate.cli.trained import pick_device, write_facts
from longstate.data import synthetic
from longstate.data.text_source import JSON_LINES, TEXT_SUFFIXES
from longstate.diagnostics.plots import draw_confusion
from longstate.models import atomic
from longstate.training.lightning_door import is_main_process

YAML = (".yaml", ".yml")
TEXT = (*TEXT_SUFFIXES, *JSON_LINES)


def run_fit(
    config: str,
    overrides: Sequence[str],
    *,
    output: Path | None,
    device: str | None,
    devices: int | None,
    options: Options,
    show: bool,
) -> None:
    """Train what a configuration, or a bare source of recordings, describes.

    Args:
        config: A YAML file, or a source of recordings or a text to train on with the defaults.
        overrides: `dotted.path=value`.
        output: Folder of the run, instead of the configuration's.
        device: Instead of `training.device`.
        devices: Instead of `training.devices`.
        options: How to run.
        show: Print the configuration, every default included, and do nothing.

    Raises:
        InputError: If anything that was given cannot be used.
        SystemExit: 130 after Ctrl-C, when all is saved.
    """
    options_given = {"output": None if output is None else str(output), "training.device": device}
    given = dict(parse_override(text) for text in overrides)
    given |= {
        path: value for path, value in (options_given | {"training.devices": devices}).items() if value is not None
    }
    plan = read_plan(config, given)
    ops.set_up_allocator()
    if show:
        sys.stdout.write(to_yaml(to_tree(plan.config)))
        return
    pick_device(plan.config.training.device)
    try:
        if isinstance(plan, TextPlan):
            fit_documents(plan, options)
        elif plan.config.evaluation.protocol == "leave_one_group_out":
            leave_one_group_out(plan, options)
        else:
            holdout(plan, options)
    except training.Interrupted as stop:
        print(
            f"Stopped in epoch {stop.epoch} of {stop.epochs}, and everything is saved: the same command with --resume "
            "continues exactly there.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def read_plan(config: str, overrides: Mapping[str, Any]) -> Plan | TextPlan:
    """The plan in a YAML file, or the defaults for a source of recordings or a text."""
    if config.lower().endswith(YAML):
        return read_config(Path(config), overrides)
    name = (config.partition(":")[2] or config).partition("?")[0]
    stem = Path(name).stem
    if stem == "manifest":
        stem = Path(name).resolve().parent.name
    tuned: dict[str, Any] = {}
    if config == "watch":
        tuned = {"model": watch.MODEL, "training": watch.TRAINING}
    elif config.startswith(synthetic.PREFIX):
        tuned = {"model": {"kind": kind_of(synthetic.labels_of(config))}}
    elif name.lower().endswith(TEXT):
        tuned = {"model": {"kind": "language_model"}}
    return plan_from_tree({"data": {"source": config}, **tuned, "output": f"runs/{stem}"}, "the defaults", overrides)


def holdout(plan: Plan, options: Options) -> None:
    """Train once, choose the best epoch by the validation part, and read the test part at the end."""
    config = plan.config
    recordings = read_source(config.data, config.model.task)
    parts = {name: recordings.select(rows) for name, rows in divide(recordings, config.data.split)._asdict().items()}
    folder = Path(config.output)
    speaks = is_main_process()
    if speaks and options.progress:
        sizes = ", ".join(f"{len(part)} {name}" for name, part in parts.items() if len(part))
        print(f"{recordings}: {sizes}", file=sys.stderr)
    validation = parts["validation"] if len(parts["validation"]) else None
    run = train(config, parts["train"], validation, folder, options)
    if not speaks:
        return
    known = facts(config, run, parts)
    if len(parts["test"]):
        evaluation = training.evaluate(run.model, parts["test"])
        known["test"] = headline(evaluation)
        print_evaluation(evaluation, "The test part")
        draw(evaluation, folder / "confusion.png")
    write_facts(run.result.folder / "model", known)
    atomic.write(folder / "config.yaml", to_yaml(plan.tree).encode())
    for line in closing(folder, config, run):
        print(line)


def headline(evaluation: training.Evaluation) -> dict[str, float]:
    """The numbers of an evaluation that go beside the model."""
    if isinstance(evaluation, training.RegressionEvaluation):
        return {f"{score.name}_rmse": score.rmse for score in evaluation.targets}
    return {"accuracy": evaluation.accuracy, "macro_f1": evaluation.macro_f1}


def draw(evaluation: training.Evaluation, path: Path) -> None:
    """Draw the confusion matrix, where there is one that can be read and something to draw it with."""
    if isinstance(evaluation, training.RegressionEvaluation) or importlib.util.find_spec("matplotlib") is None:
        return
    names = tuple(score.name for score in evaluation.classes)
    if len(names) <= UP_TO:
        draw_confusion(path, np.array(evaluation.confusion), classes=names, title="The test part")


def closing(folder: Path, config: FitConfig, run: Run) -> list[str]:
    """What there is now, and what to do with it."""
    result = run.result
    model = folder / "model"
    epoch = f"epoch {result.best_epoch} of {result.epochs}"
    why = "the best on the validation part" if "val_loss" in result.metrics else "the last"
    ran = " (stopped early)" if result.stopped_early else ""
    can_stream = config.model.kind != "bidirectional_classifier"
    return [
        *result.notices,
        f"{model} holds the model of {epoch}{ran}, {why}; {folder} holds log.csv, curves.png and config.yaml.",
        "Next:",
        f"  longstate predict {model} RECORDING...",
        *([f"  longstate stream {model} < RECORDING.csv"] if can_stream else []),
        f"  longstate info {model}",
    ]
