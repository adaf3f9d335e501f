"""A run in its folder: begun or continued, trained to its end, and the best model taken from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from longstate import models
from longstate._checks import InputError
from longstate.training.config import RunConfig
from longstate.training.curves import draw_curves
from longstate.training.lightning_door import is_main_process
from longstate.training.run_folder import RunFolder
from longstate.training.standing import Standing

if TYPE_CHECKING:
    from longstate.training.run_module import RunModule


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


def whole_run(
    model: nn.Module,
    module: Callable[[Standing], "RunModule"],
    columns: Sequence[str],
    config: RunConfig,
    description: Mapping[str, Any],
    folder: str | Path,
    *,
    resume: bool,
    progress: bool,
) -> FitResult:
    """Train in a folder, or continue there; the model ends with the weights of the best epoch, in `eval()` mode.

    Args:
        model: What is trained.
        module: Makes the module that trains it, from where the run stands.
        columns: Of the log.
        config: How to train.
        description: What the run is, for `run.json`.
        folder: Of this run alone.
        resume: Continue the run in `folder`.
        progress: Show how it goes.

    Raises:
        InputError: If the folder is taken, or holds another run; if devices cannot share a batch.
        Interrupted: On Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    if config.batch_size % config.devices:
        raise InputError(
            f"`batch_size` is {config.batch_size} for {config.devices} devices, but each must take an equal share; "
            "choose a multiple."
        )
    run_folder = RunFolder(folder, columns)
    standing = Standing()
    if resume:
        standing = run_folder.continues(description)
    elif is_main_process():
        run_folder.begin(description)
    # Every step seeds itself; whoever calls keeps the random state that was theirs.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if not standing.finished:
            from longstate.training.runner import run

            run(module(standing), run_folder, resume=resume, progress=progress)
        return _finish(model, run_folder, config)


def _finish(model: nn.Module, folder: RunFolder, config: RunConfig) -> FitResult:
    """The best weights into the model, the curves into the folder, and what came out."""
    model.load_state_dict(models.load(folder.model).state_dict())
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
