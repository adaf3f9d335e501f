"""Keeping a run: counting, checkpoints, the log, the best model, early stopping, and an orderly end on Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import Any

import lightning as L
from torch import Tensor

from longstate import models
from longstate._checks import InputError
from longstate.models import atomic
from longstate.training.module import TrainingModule, own
from longstate.training.run_folder import RunFolder
from longstate.training.standing import Row, is_better

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Training ended on a signal, after a checkpoint was written."""


class Keeper(L.Callback):
    """Writes everything that a run leaves behind, in such an order that it can be killed at any moment.

    What an epoch writes (the best model, then its row of the log) comes before its checkpoint, and a run that is taken
    up from the checkpoint before writes the same again.

    Args:
        folder: Where to.
        monitor: "accuracy" or "loss".
        is_new: The run starts now; its first checkpoint is that of step 0.
    """

    def __init__(self, folder: RunFolder, *, monitor: str, is_new: bool) -> None:
        self.folder = folder
        self.monitor = monitor
        self.is_new = is_new
        self.signalled = False
        self._clock = 0.0
        self._training_seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for Ctrl-C, and make the start a place to return to."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)
        if self.is_new:
            self._save(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, as much earlier as a run that was taken up had spent."""
        self._clock = perf_counter() - own(pl_module).standing.seconds

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; write a checkpoint if one is due, or if the run is to stop here."""
        module = own(pl_module)
        standing, every = module.standing, module.config.checkpoint_every
        standing.batch += 1
        standing.step += 1
        standing.seconds = self._training_seconds = perf_counter() - self._clock
        stop = trainer.strategy.reduce_boolean_decision(self.signalled, all=False)
        if standing.batch == module.batches_per_epoch:
            return  # the end of the epoch writes one, after validation
        if stop or (every is not None and standing.step % every == 0):
            self._save(trainer)
        if stop:
            raise Stopped

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the epoch: best model, log, early stopping, checkpoint."""
        module = own(pl_module)
        standing, config = module.standing, module.config
        row = self._row(module)
        better = is_better(row, standing.best, monitor=self.monitor)
        standing.best, standing.stale = (row, 0) if better else (standing.best, standing.stale + 1)
        if trainer.is_global_zero:
            if better:
                models.save(module.model, self.folder.model)
            self.folder.add_row(row)
        module.last_row = row
        standing.next_epoch()
        module.start_epoch()
        early = config.patience is not None and standing.stale >= config.patience
        standing.finished = early or standing.epoch == config.epochs
        self._save(trainer)
        if early:
            trainer.should_stop = True
        elif trainer.strategy.reduce_boolean_decision(self.signalled, all=False) and not standing.finished:
            raise Stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Stop after this step; a second Ctrl-C stops at once."""
        self.signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _row(self, module: TrainingModule) -> Row:
        """The log's row of the epoch that ends."""
        standing, seconds = module.standing, perf_counter() - self._clock
        sums = module.all_sums(module.sums).sum(0)
        loss, accuracy = ratios(sums, has_classes=module.task.has_classes)
        val_loss, val_accuracy = ratios(module.validation_sums, has_classes=module.task.has_classes)
        if not abs(loss) < float("inf"):
            raise InputError(
                f"the training loss became {loss} in epoch {standing.epoch + 1}, but a finite one is needed; "
                f"lower `lr` (now {module.config.lr}) or `gradient_clip` (now {module.config.gradient_clip})."
            )
        validated = module.validation_recordings is not None
        return {
            "epoch": standing.epoch + 1,
            "step": standing.step,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "val_loss": val_loss if validated else None,
            "val_accuracy": val_accuracy if validated else None,
            "lr": max(group["lr"] for group in module.trainer.optimizers[0].param_groups),
            "seconds": seconds,
            "samples_per_second": float(sums[4]) / self._training_seconds,
        }

    def _save(self, trainer: L.Trainer) -> None:
        """Replace the checkpoint, all processes together."""
        draft = self.folder.checkpoint.with_name(".last.ckpt.tmp")
        try:
            trainer.save_checkpoint(draft)
            if trainer.is_global_zero:
                atomic.move(draft, self.folder.checkpoint)
        finally:
            if trainer.is_global_zero:
                draft.unlink(missing_ok=True)
        trainer.strategy.barrier("longstate checkpoint")


@contextmanager
def signals_given_back() -> Iterator[None]:
    """After this context the signals go to whom they went before, whatever Lightning and the keeper did."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                # None stands for a handler that Python did not set and cannot set again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ratios(sums: Tensor, *, has_classes: bool) -> tuple[float, float | None]:
    """Loss and accuracy from the sums of loss, weight, correct and answers; no accuracy where there are no classes."""
    loss, weight, correct, answers = (float(part) for part in sums[:4])
    return loss / max(weight, 1e-30), correct / max(answers, 1.0) if has_classes else None
