"""The packaged smartwatch recordings: seven physiotherapy exercises, ten subjects, six channels at 50 Hz."""

import importlib.util
from pathlib import Path

from longstate._checks import InputError
from longstate.data.arrays import from_arrays
from longstate.data.plain_pickle import read_plain_pickle
from longstate.data.recordings import Recordings

PACKAGE = "seglearn"
PIP_LINE = "pip install --no-deps seglearn==1.2.5"
CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
SAMPLING_RATE = 50.0


def read_watch() -> Recordings:
    """Read the 140 smartwatch recordings that the package seglearn 1.2.5 carries (11 MB).

    A person does one of seven exercises of the shoulder, 19 to 52 seconds long. Channels: acceleration `ax, ay, az`
    and angular velocity `wx, wy, wz`. The group is the subject, "1" to "10": split by it, since recordings of one
    person resemble each other.

    Returns:
        Recordings with the classes PEN, ABD, FEL, IR, ER, TRAP, ROW in the order of the package. seglearn itself is
        not imported; only its file is read.

    Raises:
        InputError: If the package is not installed or its file is another one.

    Source: Burns et al., "Shoulder physiotherapy exercise recognition", Physiological Measurement 39, 2018.
    """
    path = _watch_file()
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or not {"X", "y", "subject", "X_labels", "y_labels"} <= content.keys():
        raise _another_file(path)
    if tuple(content["y_labels"]) != CLASSES or tuple(content["X_labels"]) != CHANNELS:
        raise _another_file(path)
    labels = [CLASSES[int(label)] for label in content["y"]]
    subjects = [str(int(subject)) for subject in content["subject"]]
    recordings = from_arrays(
        content["X"],
        labels,
        groups=subjects,
        names=[f"watch {row}, subject {subject}" for row, subject in enumerate(subjects)],
        channels=CHANNELS,
        sampling_rate=SAMPLING_RATE,
    )
    return recordings.with_classes(CLASSES)


def _watch_file() -> Path:
    """Where the installed package keeps the recordings; found without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(
            f"the smartwatch recordings were asked for, but they come with the package {PACKAGE}, which is not "
            f"installed; run `{PIP_LINE}`."
        )
    path = Path(spec.origin).parent / "data" / "watch_dataset.npy"
    if not path.is_file():
        raise _another_file(path)
    return path


def _another_file(path: Path) -> InputError:
    return InputError(
        f"{path} is not the file of recordings that seglearn 1.2.5 carries, but that file is needed; run `{PIP_LINE}`."
    )
