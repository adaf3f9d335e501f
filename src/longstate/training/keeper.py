"""Keeping a run: counting, checkpoints, the log, the best model, early stopping, and an orderly end on Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import Any

import lightning as L

from longstate import models
from longstate._checks import InputError
from longstate.models import atomic
from longstate.training.run_folder import RunFolder
from longstate.training.run_module import RunModule, own
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
        is_new: The run starts now; its first checkpoint is that of step 0.
    """

    def __init__(self, folder: RunFolder, *, is_new: bool) -> None:
        self.folder = folder
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
        stop = self._any(trainer, self.signalled)
        if standing.batch == module.batches_per_epoch:
            return  # the end of the epoch writes one, after validation
        if self._any(trainer, module.time_used >= 1):
            trainer.should_stop = True  # the epoch ends here
            return
        if stop or (every is not None and standing.step % every == 0):
            self._save(trainer)
        if stop:
            raise Stopped

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the epoch: best model, log, early stopping, checkpoint."""
        module = own(pl_module)
        standing, config = module.standing, module.config
        seconds = perf_counter() - self._clock
        row = self._row(module, seconds)
        better = is_better(row, standing.best, monitor=module.headline)
        standing.best, standing.stale = (row, 0) if better else (standing.best, standing.stale + 1)
        if trainer.is_global_zero:
            if better:
                models.save(module.model, self.folder.model)
            self.folder.add_row(row)
        module.last_row = row
        standing.next_epoch(seconds)
        module.start_epoch()
        early = config.patience is not None and standing.stale >= config.patience
        early = early or self._any(trainer, module.time_used >= 1)
        standing.finished = early or standing.epoch == config.epochs
        self._save(trainer)
        if early:
            trainer.should_stop = True
        elif self._any(trainer, self.signalled) and not standing.finished:
            raise Stopped

    def _any(self, trainer: L.Trainer, said: bool) -> bool:
        """Whether one of the processes says so."""
        return trainer.strategy.reduce_boolean_decision(said, all=False)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Stop after this step; a second Ctrl-C stops at once."""
        self.signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _row(self, module: RunModule, seconds: float) -> Row:
        """The log's row of the epoch that ends."""
        sums = module.all_sums(module.sums).sum(0)
        trained, validated = module.measured(sums, "train"), module.measured(module.validation_sums, "val")
        loss = trained["loss"]
        if loss is None or not abs(loss) < float("inf"):
            raise InputError(
                f"the training loss became {loss} in epoch {module.standing.epoch + 1}, but a finite one is needed; "
                f"lower `lr` (now {module.config.lr}) or `gradient_clip` (now {module.config.gradient_clip})."
            )
        return {
            "epoch": module.standing.epoch + 1,
            "step": module.standing.step,
            **{f"train_{name}": value for name, value in trained.items()},
            **{f"val_{name}": value if module.validates else None for name, value in validated.items()},
            "lr": max(group["lr"] for group in module.trainer.optimizers[0].param_groups),
            "seconds": seconds,
            f"{module.sample}_per_second": float(sums[4]) / self._training_seconds,
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
