"""Batches that can be taken up again exactly where they were left."""

from collections.abc import Iterator, Mapping

import numpy as np

from longstate._checks import InputError, check_positive
from longstate.data.batches import Batch, collate
from longstate.data.randomness import random_generator
from longstate.data.recordings import Recordings


class Loader:
    """Batches of recordings, each a pure function of (seed, epoch, index); the whole state is two integers.

    Every `iter()` is one epoch. It begins a new one, unless a state was loaded: then the first pass goes on after the
    last batch that the saved run had been given, in the same epoch, and all later epochs are those of that run. The
    place in the epoch moves on before a batch is handed out, so that a state saved while working on a batch counts it.
    Lightning saves and loads this state by itself, except for a checkpoint between two epochs; there it only says which
    epoch is next by `loader.sampler.set_epoch(epoch)`, so the loader is its own `sampler`, beside no `batch_sampler`.

    With several processes (`world_size`) each takes its share of every batch: together they see the batches that one
    process would see with `batch_size * world_size`, and all have the same number of batches of the same size. Where
    the recordings do not divide by `world_size`, the first ones are taken again at the end; none is left out unless
    `drop_last` is True.

    Args:
        recordings: What to load.
        batch_size: Rows of a batch in each process.
        seed: Decides the order and the crops.
        shuffle: Take the recordings in a new random order in each epoch; False keeps their order, for evaluation.
        crop: Take at most this many steps of each recording, from a random start that changes from epoch to epoch.
        drop_last: Leave out the last batch of an epoch if it is smaller than the others.
        rank: The number of this process.
        world_size: The number of processes.

    Raises:
        InputError: If there is nothing to load or a size makes no sense.

    Example:
        >>> import numpy as np
        >>> from longstate.data import from_arrays
        >>> recordings = from_arrays([np.full(3, row) for row in range(5)], list("ababa"))
        >>> loader = Loader(recordings, batch_size=2, seed=7)
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> state = loader.state_dict()
        >>> again = Loader(recordings, batch_size=2, seed=7)
        >>> again.load_state_dict(state)
        >>> [len(batch.y) for batch in again] == [len(batch.y) for batch in batches] == [2, 1]
        True
    """

    batch_sampler: None = None

    def __init__(
        self,
        recordings: Recordings,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        crop: int | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_positive(batch_size=batch_size, world_size=world_size, crop=1 if crop is None else crop)
        if not 0 <= rank < world_size:
            raise InputError(
                f"`rank` is {rank}, but a number from 0 to {world_size - 1} is needed for `world_size` {world_size}; "
                "give the number of this process."
            )
        if len(recordings) == 0:
            raise InputError("there are no recordings to load, but one at least is needed; check the split.")
        if drop_last and len(recordings) < batch_size * world_size:
            raise InputError(
                f"`drop_last` leaves nothing of {len(recordings)} recordings in batches of {batch_size * world_size}, "
                "but one whole batch is needed; make `batch_size` smaller, or keep the last batch."
            )
        self.recordings = recordings
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.crop = crop
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._index = 0
        self._resumes = False
        self._begun = False

    def __len__(self) -> int:
        """The number of batches of an epoch, the same in every process."""
        step = self.batch_size * self.world_size
        return len(self.recordings) // step if self.drop_last else -(-len(self.recordings) // step)

    def __iter__(self) -> Iterator[Batch]:
        if self._index >= len(self) or (self._index > 0 and not self._resumes):
            self._epoch, self._index = self._epoch + 1, 0
        self._resumes, self._begun = False, True
        epoch, first = self._epoch, self._index
        order, starts = self._plan(epoch)
        step = self.batch_size * self.world_size
        for index in range(first, len(self)):
            mine = slice(index * step + self.rank, (index + 1) * step, self.world_size)
            self._epoch, self._index = epoch, index + 1
            yield collate(self.recordings, order[mine], starts=starts[mine], crop=self.crop)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches have been handed out."""
        return {"epoch": self._epoch, "index": self._index}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state: the next pass gives the rest of that epoch.

        Raises:
            InputError: If the state is not one of a loader with this number of batches.
        """
        values = [state.get(name) for name in ("epoch", "index")]
        if not all(isinstance(value, int) and value >= 0 for value in values) or state["index"] > len(self):
            raise InputError(
                f"the state {dict(state)} does not fit a loader of {len(self)} batches an epoch, but an epoch and a "
                "place in it are needed; use the recordings, batch size and number of processes of the saved run."
            )
        self._epoch, self._index = state["epoch"], state["index"]
        self._resumes = self._begun = True

    def set_epoch(self, epoch: int) -> None:
        """Begin with this epoch; a loader that has been read, or has loaded a state, counts by itself instead."""
        if not self._begun:
            self._epoch = epoch

    @property
    def sampler(self) -> "Loader":
        """The loader itself: where Lightning looks for `set_epoch`."""
        return self

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an epoch in order, and the first step of each; whole multiples of `world_size`."""
        random = random_generator(self.seed, epoch)
        count = len(self.recordings)
        order = random.permutation(count) if self.shuffle else np.arange(count)
        order = np.resize(order, -(-count // self.world_size) * self.world_size)
        if self.crop is None:
            return order, np.zeros(len(order), dtype=np.int64)
        spare = np.maximum(self.recordings.lengths[order] - self.crop, 0)
        return order, random.integers(0, spare + 1)
