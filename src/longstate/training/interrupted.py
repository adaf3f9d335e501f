"""The end of a run by Ctrl-C."""

from pathlib import Path


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal; the run can be continued as if it had not been.

    It is a `KeyboardInterrupt`, so that a loop over many runs stops too.

    Args:
        folder: The folder of the run.
        epoch: The epoch in which it stopped, counted from 1.
        epochs: Epochs of the whole run.
        step: Steps that are kept.
    """

    def __init__(self, folder: Path, *, epoch: int, epochs: int, step: int) -> None:
        super().__init__(
            f"training was interrupted in epoch {epoch} of {epochs}, and its first {step} steps are kept in {folder}; "
            "continue with `resume=True` (on the command line `--resume`)."
        )
        self.folder = folder
        self.epoch = epoch
        self.epochs = epochs
        self.step = step
