"""One training run in one folder, from beginning to end or from where it was stopped."""

from dataclasses import dataclass
from pathlib import Path

import torch

from longstate import models
from longstate._checks import InputError
from longstate.data import Recordings
from longstate.models import Model
from longstate.training.config import TrainingConfig
from longstate.training.curves import draw_curves
from longstate.training.lightning_door import is_main_process, require_lightning
from longstate.training.run_folder import RunFolder, describe_run
from longstate.training.standing import Standing
from longstate.training.task import check_labels


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Args:
        folder: The folder of the run; the best model is in `model/` there.
        epochs: Epochs trained.
        steps: Optimiser steps taken.
        stopped_early: Whether `patience` ended it.
        best_epoch: The epoch whose model was kept, counted from 1.
        metrics: The numbers of that epoch, by the names of `log.csv`; those that do not exist are left out.
        notices: Sentences for the user, such as what was left out and why.
    """

    folder: Path
    epochs: int
    steps: int
    stopped_early: bool
    best_epoch: int
    metrics: dict[str, float]
    notices: tuple[str, ...]


def fit(
    model: Model,
    train: Recordings,
    validation: Recordings | None,
    config: TrainingConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train a model, and keep in `folder` all that is needed to use it and to continue.

    `folder` gets `model/` (the best epoch), `checkpoints/last.ckpt`, `log.csv` (a row an epoch), `curves.png` and
    `run.json`. A run that is killed at any moment and taken up with `resume=True` ends with the same weights, bit for
    bit, on a CPU; learning rate, dropout, augmentation and order of the recordings depend on the step alone.

    Args:
        model: As `models.build` gives it; it is trained in place and ends with the weights of the best epoch, in
            `eval()` mode.
        train: Recordings to learn from.
        validation: Recordings to choose the best epoch by; None keeps the last.
        config: How to train.
        folder: A folder of its own for this run.
        resume: Continue the run in `folder` from its last checkpoint.
        progress: Show on standard error how it goes.

    Returns:
        What came out.

    Raises:
        InputError: If the recordings do not fit the model, the folder is taken, or (with `resume`) the configuration,
            the model or the data are not those the run was started with.
        Interrupted: On Ctrl-C or SIGTERM, after a checkpoint was written; a second Ctrl-C does not wait for it.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from longstate.data import from_arrays
        >>> from longstate.models import BackboneConfig, ClassifierConfig, build
        >>> from longstate.training import TrainingConfig, fit
        >>> recordings = from_arrays([np.full(9, k % 2) for k in range(8)], ["low", "high"] * 4)
        >>> model = build(ClassifierConfig(d_input=1, classes=recordings.classes, backbone=BackboneConfig(4, 1)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = fit(model, recordings, None, TrainingConfig(epochs=2), folder, progress=False)
        >>> result.epochs, result.best_epoch
        (2, 2)
    """
    require_lightning()
    check_labels(model.config, train)
    if validation is not None:
        check_labels(model.config, validation)
    if config.batch_size % config.devices:
        raise InputError(
            f"`batch_size` is {config.batch_size} for {config.devices} devices, but each must take an equal share; "
            "choose a multiple."
        )
    run_folder = RunFolder(folder)
    description = describe_run(config, model.config, train, validation)
    standing = Standing()
    if resume:
        standing = run_folder.continues(description)
    elif is_main_process():
        run_folder.begin(description)
    # Every step seeds itself; whoever calls keeps the random state that was theirs.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if not standing.finished:
            from longstate.training.module import TrainingModule
            from longstate.training.runner import run

            module = TrainingModule(model.train(), train, validation, config, standing)
            run(module, run_folder, resume=resume, progress=progress)
        return _finish(model, run_folder, config)


def _finish(model: Model, folder: RunFolder, config: TrainingConfig) -> FitResult:
    """The best weights into the model, the curves into the folder, and what came out."""
    model.load_state_dict(models.load_model(folder.model).state_dict())
    model.eval()
    standing = folder.standing()
    notice = draw_curves(folder.log, folder.curves) if is_main_process() else None
    best = standing.best or {}
    return FitResult(
        folder=folder.path,
        epochs=standing.epoch,
        steps=standing.step,
        stopped_early=standing.epoch < config.epochs,
        best_epoch=int(best["epoch"] or 0),
        metrics={name: value for name, value in best.items() if value is not None},
        notices=() if notice is None else (notice,),
    )
