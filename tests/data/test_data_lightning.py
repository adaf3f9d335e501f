"""The loader under Lightning: a run that is stopped anywhere and resumed sees the same batches to the end."""

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from longstate.data import Loader, from_arrays

# Lightning 2.6 asks torch 2.13 a question that torch calls old.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")

EPOCHS, STEPS = 3, 4
WHEN = {
    "steps": {"every_n_train_steps": 1},
    "epoch ends": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "after validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
}


class Probe(lightning.LightningModule):
    """One weight; it writes down what it is given, in training and in validation."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.trained, self.validated = [], []

    def training_step(self, batch):
        self.trained.append(batch.x.flatten().tolist())
        return (self.weight * batch.x.mean() - 1) ** 2

    def validation_step(self, batch):
        self.validated.append(batch.x.flatten().tolist())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def recordings(count):
    return from_arrays([np.arange(row, row + row % 3 + 1.0) for row in range(count)], ["a", "b"] * (count // 2))


def fit(folder, when, *, checkpoint=None, **limits):
    """Train to the end, keeping a checkpoint whenever `when` says."""
    torch.manual_seed(0)
    probe = Probe()
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **when)
    trainer = lightning.Trainer(
        accelerator="cpu",
        **{"max_epochs": EPOCHS, **limits},
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    train = Loader(recordings(8), 2, seed=3, crop=2)
    validation = Loader(recordings(6), 4, shuffle=False)
    trainer.fit(probe, train, validation, ckpt_path=checkpoint, weights_only=True)
    return probe


def run(folder, name, when, limits, *, checkpoint=None):
    """A run, and its checkpoints by the number of steps; moved to `name`, as Lightning wants a fresh folder."""
    probe = fit(folder / "run", when, checkpoint=checkpoint, **limits)
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run").rename(folder / name)
    return probe, {int(path.stem.removeprefix("step=")): path for path in (folder / name).glob("*.ckpt")}


def check_resuming(folder, when, limits, *, steps):
    """Resume from every checkpoint of a run, and once more from every checkpoint of the first resumed run."""
    whole, checkpoints = run(folder, "whole", when, limits)
    assert len(whole.trained) == steps
    assert len({str(batch) for batch in whole.trained}) > STEPS, "epochs differ"
    assert len(checkpoints) >= (steps if "every_n_train_steps" in when else EPOCHS - 1)
    again = {}
    for step in sorted(checkpoints):
        resumed, later = run(folder, f"from {step}", when, limits, checkpoint=checkpoints[step])
        assert resumed.trained == whole.trained[step:]
        assert torch.equal(resumed.weight, whole.weight)
        again = again or later
    assert again
    for step, checkpoint in again.items():
        resumed, _ = run(folder, f"again from {step}", when, limits, checkpoint=checkpoint)
        assert resumed.trained == whole.trained[step:]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("limits", [{}, {"max_epochs": -1, "max_steps": 10}], ids=["epochs", "steps"])
def test_resumed_anywhere(tmp_path, when, limits):
    check_resuming(tmp_path, WHEN[when], limits, steps=limits.get("max_steps", EPOCHS * STEPS))


def test_epochs_cut_short_and_resumed_between_them(tmp_path):
    check_resuming(tmp_path, WHEN["epoch ends"], {"limit_train_batches": 3}, steps=EPOCHS * 3)


def test_validation_is_whole_after_the_check_before_training(tmp_path):
    probe = fit(tmp_path, WHEN["after validation"])
    expected = [batch.x.flatten().tolist() for batch in Loader(recordings(6), 4, shuffle=False)]
    assert probe.validated == expected * (EPOCHS + 1)
