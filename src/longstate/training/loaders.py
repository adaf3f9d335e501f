"""How a run walks through its recordings: training batches from where it stands, evaluation batches once each."""

from collections.abc import Iterator

import numpy as np

from longstate.data import Batch, Loader, Recordings, TokenBatch, TokenRows, collate
from longstate.training.standing import Standing


class TrainingBatches:
    """One pass is what is left of the epoch in which the run stands.

    It has no length, so that the trainer asks for one batch ahead to know the last, and a short first epoch (of a run
    that was taken up again) ends like any other.
    """

    def __init__(self, loader: Loader, standing: Standing) -> None:
        self.loader = loader
        self.standing = standing

    def __iter__(self) -> Iterator[Batch]:
        self.loader.load_state_dict({"epoch": self.standing.epoch, "index": self.standing.batch})
        yield from self.loader


class TrainingRows:
    """The same over the rows of documents."""

    def __init__(self, rows: TokenRows, standing: Standing) -> None:
        self.rows = rows
        self.standing = standing

    def __iter__(self) -> Iterator[TokenBatch]:
        return self.rows.epoch(self.standing.epoch, self.standing.batch)


class EvaluationBatches:
    """Every recording once, long ones first beside others of like length; a process of several takes every n-th.

    All processes have the same number of batches. A process that has one recording less fills its last batch with one
    that is not its own.

    Args:
        recordings: What to evaluate.
        batch_size: Rows of a batch in each process.
        rank: The number of this process.
        world_size: The number of processes.
    """

    def __init__(self, recordings: Recordings, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.recordings = recordings
        self.batch_size = batch_size
        by_length = np.argsort(-recordings.lengths, kind="stable")
        own = by_length[rank::world_size]
        self.own = len(own)
        missing = -(-len(by_length) // world_size) - len(own)
        self.rows = np.concatenate([own, by_length[:missing]])

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        """Batches, and how many of the rows of each are this process's own (the first ones)."""
        for first in range(0, len(self.rows), self.batch_size):
            rows = self.rows[first : first + self.batch_size]
            yield collate(self.recordings, rows), min(len(rows), self.own - first)
