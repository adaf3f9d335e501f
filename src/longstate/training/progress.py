"""What a person sees while a model trains."""

from time import perf_counter
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from longstate.training.run_module import Measures, RunModule, own
from longstate.training.standing import Row

REFRESH_SECONDS = 0.2
SHORT = {"accuracy": "acc", "bits_per_byte": "bits/byte"}


class ProgressDisplay(L.Callback):
    """One line that moves on a terminal; one line an epoch where the output goes to a file.

    It comes after the keeper, which counts.

    Args:
        console: Where to; standard error if None, so that standard output stays free for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._refreshed = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the line."""
        module = own(pl_module)
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("", total=module.total_steps, completed=module.standing.step, numbers="")
        self._progress.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the line, a few times a second."""
        now = perf_counter()
        if self._progress is None or now - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = now
        module = own(pl_module)
        standing = module.standing
        done = max(standing.step, int(module.time_used * module.total_steps))
        self._progress.update(
            self._task,
            completed=done,
            description=f"epoch {standing.epoch + 1}/{module.config.epochs}",
            numbers=running_numbers(module),
        )
        self._progress.refresh()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A line for the epoch, where no line moves."""
        row = own(pl_module).last_row
        if self._progress is None and row is not None and trainer.is_global_zero:
            epochs = own(pl_module).config.epochs
            self.console.print(f"epoch {row['epoch']}/{epochs}  {row_numbers(row)}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the line, however training ended."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def running_numbers(module: RunModule) -> str:
    """Measures and speed of the epoch so far, in this process, and the best of the epochs before."""
    standing = module.standing
    parts = said(module.measured(module.sums, "train"))
    best = None if standing.best is None else standing.best.get(f"val_{module.headline}")
    if best is not None:
        parts += [f"best val {part}" for part in said({module.headline: best})]
    speed = float(module.sums[4]) * module.trainer.world_size / max(standing.seconds, 1e-9)
    return "  ".join([*parts, f"{speed:.0f} {module.sample}/s"])


def row_numbers(row: Row) -> str:
    """The numbers of a finished epoch.

    Example:
        >>> row_numbers({"train_loss": 0.5, "train_accuracy": None, "val_loss": 0.75, "val_accuracy": None,
        ...              "samples_per_second": 100.4})
        'loss 0.500  val loss 0.750  100 samples/s'
    """
    trained, validated = (
        {name.removeprefix(part): value for name, value in row.items() if name.startswith(part)}
        for part in ("train_", "val_")
    )
    sample, speed = next((name, value) for name, value in row.items() if name.endswith("_per_second"))
    parts = said(trained) + [f"val {part}" for part in said(validated)]
    return "  ".join([*parts, f"{speed:.0f} {sample.removesuffix('_per_second')}/s"])


def said(measures: Measures) -> list[str]:
    """Names and values, as far as they exist."""
    return [f"{SHORT.get(name, name)} {value:.3f}" for name, value in measures.items() if value is not None]
