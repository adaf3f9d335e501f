"""Small recordings, models and runs that the tests of training share; also what the killed processes run."""

import numpy as np
import torch

from longstate.data import Recordings, from_arrays, statistics
from longstate.models import BackboneConfig, ClassifierConfig, InputStatistics, Model, S4DConfig, build
from longstate.training import TrainingConfig

SMALL = BackboneConfig(d_model=4, n_layers=1, layer=S4DConfig(d_state=4), dropout=0.2)


def waves(count: int = 22, *, seed: int = 0) -> Recordings:
    """Noisy sines and squares of 12 to 30 steps."""
    random = np.random.default_rng(seed)
    rows, labels = [], []
    for number in range(count):
        time = 0.4 * np.arange(random.integers(12, 31)) + random.uniform(0, 6)
        wave = np.sin(time) if number % 2 else np.sign(np.sin(time))
        rows.append(5.0 + 2.0 * wave + 0.3 * random.normal(size=len(time)))
        labels.append("sine" if number % 2 else "square")
    return from_arrays(rows, labels)


def halves(recordings: Recordings, train: int = 14) -> tuple[Recordings, Recordings]:
    """Recordings to train with and to validate with."""
    return recordings.select(range(train)), recordings.select(range(train, len(recordings)))


def classifier(recordings: Recordings, *, seed: int = 0, backbone: BackboneConfig = SMALL) -> Model:
    """A small classifier of recordings with one channel, always from the same weights."""
    torch.manual_seed(seed)
    shift, scale = statistics(recordings)
    return build(
        ClassifierConfig(
            d_input=1,
            classes=recordings.classes,
            channels=recordings.channels,
            backbone=backbone,
            statistics=InputStatistics(shift, scale),
        )
    )


# Everything that is random in training, so that a run that is continued wrongly differs.
RANDOM = TrainingConfig(
    epochs=3, batch_size=4, lr=0.02, crop=20, noise=0.1, scale=0.1, rate=0.1, label_smoothing=0.1, checkpoint_every=2
)
