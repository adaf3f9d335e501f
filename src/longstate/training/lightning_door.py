"""The door to Lightning: whether it is installed, and how to keep it quiet."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from longstate._checks import InputError

_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


def require_lightning() -> None:
    """Raise unless training is possible here."""
    missing = [name for name in ("lightning", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} is not installed, but training needs it; run `pip install 'longstate[train]'`."
        )


def is_main_process() -> bool:
    """Whether this is the process that speaks and writes: True but for the helpers of a run on several devices."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context Lightning neither logs what it does nor gives advice; errors and our warnings pass."""
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
