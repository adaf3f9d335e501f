"""A process that trains, is killed by SIGKILL at a chosen moment, and another that continues; run as a script.

Usage: killed_runs.py FOLDER. Processes are forked, so that Lightning is imported once. Prints one JSON object.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import small_runs
import torch

import longstate.training.keeper as keeper
import longstate.training.run_folder as run_folder
from longstate import models
from longstate.models import BackboneConfig, S4DConfig
from longstate.training import fit
from longstate.training.module import TrainingModule
from longstate.training.runner import run

# The moment: whose method, its name, at which call, and whether before or after it.
MOMENTS = {
    "first step": (TrainingModule, "training_step", 1, "before"),
    "mid-epoch, between checkpoints": (TrainingModule, "training_step", 4, "after"),
    "last step of an epoch": (TrainingModule, "training_step", 8, "after"),
    "first step of an epoch": (TrainingModule, "training_step", 9, "before"),
    "validation": (TrainingModule, "validation_step", 3, "after"),
    "checkpoint written, not in place": (keeper.atomic, "move", 4, "before"),
    "checkpoint in place": (keeper.atomic, "move", 4, "after"),
    "best model written, no log": (run_folder.RunFolder, "add_row", 2, "before"),
    "log written, no checkpoint": (run_folder.RunFolder, "add_row", 2, "after"),
    "half of the best model": (models.files.atomic, "write", 4, "after"),
    "all done but the curves": (matplotlib.figure.Figure, "savefig", 1, "before"),
}


def train(folder: Path, *, resume: bool, norm: str = "batch") -> None:
    recordings = small_runs.waves()
    backbone = BackboneConfig(4, 1, S4DConfig(d_state=4), norm=norm, dropout=0.2)
    model = small_runs.classifier(recordings, backbone=backbone)
    result = fit(model, *small_runs.halves(recordings), small_runs.RANDOM, folder, resume=resume, progress=False)
    (folder / "result.json").write_text(json.dumps([result.epochs, result.steps, result.best_epoch]))


def kill_at(owner: object, name: str, call: int, when: str) -> None:
    original, calls = getattr(owner, name), 0

    def patched(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = original(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, name, patched)


def in_a_process(work: Callable[[], None]) -> int:
    """The wait status of a forked process that does some work."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitpid(child, 0)[1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    assert callable(run)
    report = {"whole": in_a_process(lambda: train(folder / "whole", resume=False))}
    for name, moment in MOMENTS.items():

        def killed(moment=moment, path=folder / name) -> None:
            kill_at(*moment)
            train(path, resume=False)

        status = in_a_process(killed)
        report[name] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1
        report[f"{name}, continued"] = in_a_process(lambda path=folder / name: train(path, resume=True))
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
