"""A language model in training, killed by SIGKILL at a chosen moment, and continued by another process.

Usage: killed_texts.py FOLDER. Prints one JSON object.
"""

import json
import os
import sys
from pathlib import Path

import small_texts
import torch
from killed_runs import in_a_process, kill_at

import longstate.training.keeper as keeper
from longstate.training.runner import run
from longstate.training.text_module import TextModule

CONFIGS = {"rows": small_texts.ROWS, "carried": small_texts.CARRIED}
MOMENTS = {
    "first step": (TextModule, "training_step", 1, "before"),
    "mid-epoch, between checkpoints": (TextModule, "training_step", 4, "after"),
    "first step of the second epoch": (TextModule, "on_train_batch_start", 7, "before"),
    "checkpoint in place": (keeper.atomic, "move", 3, "after"),
    "validation": (TextModule, "validation_step", 3, "after"),
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    assert callable(run)
    report = {}
    for kind, config in CONFIGS.items():
        whole = folder / kind / "whole"
        report[f"{kind}, whole"] = in_a_process(lambda path=whole, config=config: small_texts.train(path, config))
        for name, moment in MOMENTS.items():
            path = folder / kind / name

            def killed(moment=moment, path=path, config=config) -> None:
                kill_at(*moment)
                small_texts.train(path, config)

            def continued(path=path, config=config) -> None:
                small_texts.train(path, config, resume=True)

            status = in_a_process(killed)
            report[f"{kind}, {name}"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1
            report[f"{kind}, {name}, continued"] = in_a_process(continued)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
