"""One training run over recordings in one folder, from beginning to end or from where it was stopped."""

from pathlib import Path

from longstate.data import Recordings
from longstate.models import Model
from longstate.training.config import TrainingConfig
from longstate.training.lightning_door import require_lightning
from longstate.training.run_folder import describe_recordings, describe_run
from longstate.training.standing import Standing
from longstate.training.task import check_labels
from longstate.training.whole_run import FitResult, whole_run


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
    from longstate.training.module import TrainingModule

    check_labels(model.config, train)
    if validation is not None:
        check_labels(model.config, validation)
    described = None if validation is None else describe_recordings(validation)
    description = describe_run(config, model.config, describe_recordings(train), described)

    def module(standing: Standing) -> TrainingModule:
        return TrainingModule(model.train(), train, validation, config, standing)

    columns = TrainingModule.columns()
    return whole_run(model, module, columns, config, description, folder, resume=resume, progress=progress)
