"""One training run from a configuration, and the facts that stay beside its model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import longstate
from longstate import data, models, training
from longstate.cli.config import FitConfig
from longstate.cli.prepare import model_config


class Options(NamedTuple):
    """What the command line says about how to run, and not about what comes out.

    Args:
        resume: Continue what is in the folder.
        progress: Show how it goes.
        init_from: A model whose weights to begin with.
    """

    resume: bool = False
    progress: bool = True
    init_from: Path | None = None


class Run(NamedTuple):
    """A trained model and how its training went."""

    model: models.Model
    result: training.FitResult


def train(
    config: FitConfig, fitted: data.Recordings, validation: data.Recordings | None, folder: Path, options: Options
) -> Run:
    """Train one model in one folder, or continue there.

    Args:
        config: What the model is and how it trains.
        fitted: Recordings to learn from; the statistics are theirs alone.
        validation: Recordings to choose the best epoch by, or None.
        folder: Of this run alone.
        options: How to run.

    Returns:
        The model of the best epoch, and how it went.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = models.build(model_config(config.model, fitted, config.data.normalise))
    if options.init_from is not None:
        training.initialise_from(model, options.init_from)
    started = (folder / "checkpoints" / "last.ckpt").exists()
    result = training.fit(
        model,
        fitted,
        validation,
        config.training,
        folder,
        resume=options.resume and started,
        progress=options.progress,
    )
    return Run(model, result)


def facts(config: FitConfig, run: Run, parts: Mapping[str, data.Recordings]) -> dict[str, Any]:
    """What a model was trained on and how it went, for the file beside it."""
    return {
        "longstate": longstate.__version__,
        "source": config.data.source,
        "epochs": run.result.epochs,
        "best_epoch": run.result.best_epoch,
        "steps": run.result.steps,
        **{name: value for name, value in run.result.metrics.items() if name.endswith(("loss", "accuracy"))},
        "parts": {name: list(part.names) for name, part in parts.items()},
    }
