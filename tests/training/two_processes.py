"""A run on two CPU processes, started as a user would: `two_processes.py FOLDER [stop|continue]`.

With "stop" the second process gets a Ctrl-C of its own after its third step. Each process writes what it saw.
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import small_runs
import torch

from longstate.models import BackboneConfig, S4DConfig
from longstate.training import Interrupted, TrainingConfig, fit, is_main_process
from longstate.training.keeper import Keeper
from longstate.training.module import TrainingModule

BACKBONE = BackboneConfig(4, 1, S4DConfig(d_state=4), norm="layer", dropout=0.0)
CONFIG = TrainingConfig(epochs=2, batch_size=4, lr=0.02, device="cpu", devices=2, strategy="ddp")
ONE = dataclasses.replace(CONFIG, devices=1, strategy="auto")


def main(folder: Path, action: str) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    seen, digests = [], []
    step, end = TrainingModule.training_step, Keeper.on_train_epoch_end

    def recorded_step(self, batch, batch_idx):
        seen.append([self.standing.step, *(round(float(row[0, 0]), 5) for row in batch.x)])
        if action == "stop" and rank == 1 and self.standing.step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    def recorded_end(self, trainer, module):
        values = torch.cat([value.double().flatten() for value in module.model.state_dict().values()])
        digests.append(hashlib.sha256(values.numpy().tobytes()).hexdigest())
        end(self, trainer, module)

    TrainingModule.training_step, Keeper.on_train_epoch_end = recorded_step, recorded_end
    recordings = small_runs.waves(23)
    model = small_runs.classifier(recordings, backbone=BACKBONE)
    outcome = "trained"
    try:
        fit(model, *small_runs.halves(recordings), CONFIG, folder, resume=action == "continue", progress=False)
    except Interrupted as error:
        outcome = str(error)
    report = {"main": is_main_process(), "outcome": outcome, "seen": seen, "digests": digests}
    (folder / f"{action}_{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
