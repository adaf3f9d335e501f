"""Batches of tokens: rows of a stream of documents, each a pure function of (seed, epoch, index)."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longstate._checks import InputError, check_positive
from longstate.data.documents import Documents, Stream
from longstate.data.randomness import random_generator

NOT_COUNTED = -1
"""The target of a place that is not predicted."""


class TokenBatch(NamedTuple):
    """Rows of tokens and what comes next.

    Args:
        ids: Tokens (batch, length) int64.
        targets: The token after each (batch, length) int64, -1 where it does not count.
        starts: True where a document begins (batch, length): everything before is to be forgotten there.
    """

    ids: Tensor
    targets: Tensor
    starts: Tensor


class TokenRows:
    """The batches of training.

    In each epoch the documents come in another order, and their stream is turned by a random number of places, so that
    it is never cut twice at the same ones. It is cut into rows of `sequence_length`, which are shuffled; or, with
    `carry_state`, into `batch_size` contiguous parts, of which batch i holds the i-th piece of each: what a model
    remembers at the end of a row then belongs to the beginning of the same row of the next batch. Every token and every
    end of a document is predicted once an epoch.

    Args:
        documents: What to read.
        batch_size: Rows of a batch in each process.
        sequence_length: Tokens of a row.
        end: The token that stands between documents.
        seed: Decides the order.
        carry_state: Whether the rows of a batch go on where those of the batch before ended.
        rank: The number of this process.
        world_size: The number of processes.

    Raises:
        InputError: If a size is not usable.

    Example:
        >>> import numpy as np
        >>> from longstate.data import Documents, TokenRows, TokenStore
        >>> ends = np.array([4, 9])
        >>> documents = Documents(TokenStore(np.arange(9), ends, ends, (), ""), np.arange(2))
        >>> rows = TokenRows(documents, 2, 3, end=9, seed=1)
        >>> [tuple(batch.ids.shape) for batch in rows.epoch(0)]
        [(2, 3), (2, 3)]
    """

    def __init__(
        self,
        documents: Documents,
        batch_size: int,
        sequence_length: int,
        *,
        end: int,
        seed: int = 0,
        carry_state: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_positive(batch_size=batch_size, sequence_length=sequence_length, world_size=world_size)
        check_documents(documents)
        self.documents = documents
        self.end = end
        self.seed = seed
        self.carry_state = carry_state
        self.rank = rank
        self.world_size = world_size
        self.together = batch_size * world_size
        self.length = min(sequence_length, documents.predictions)

    def __len__(self) -> int:
        """The number of batches of an epoch, the same in every process."""
        places = self.documents.predictions
        if self.carry_state:
            return ceil_div(ceil_div(places, self.together), self.length)
        return ceil_div(ceil_div(places, self.length), self.together)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[TokenBatch]:
        """The batches of an epoch for this process, from one on."""
        random = random_generator(self.seed, epoch)
        places = self.documents.predictions
        stream = self.documents.stream(random.permutation(len(self.documents)), self.end)
        turn = int(random.integers(places))
        if self.carry_state:
            part = ceil_div(places, self.together)
            begin = (np.arange(self.together) * part)[self.rank :: self.world_size]
            pieces = [(begin + column, begin + part) for column in range(0, part, self.length)]
        else:
            begins = random.permutation(ceil_div(places, self.length)) * self.length
            begins = np.resize(begins, ceil_div(len(begins), self.world_size) * self.world_size)
            batches = [begins[at : at + self.together] for at in range(0, len(begins), self.together)]
            shares = [batch[self.rank :: self.world_size] for batch in batches]
            pieces = [(share, share + self.length) for share in shares]
        for begin, stop in pieces[first:]:
            width = min(self.length, int((stop - begin).max()))
            yield read_rows(stream, begin, np.minimum(stop, places), width, turn=turn)


class TokenStreams:
    """The batches of evaluation: every document from its beginning to its end, in as few streams as there are rows.

    Documents are shared out among the rows of a batch, long ones first, each to the row that has the least so far. The
    i-th batch holds the i-th piece of every row, and rows that are at their end leave: what a model remembers of the
    first rows of a batch belongs to the next batch. What comes out does not depend on the sizes of batch and pieces.

    Args:
        documents: What to read.
        batch_size: Rows of a batch in each process, at most.
        sequence_length: Tokens of a piece.
        end: The token that stands between documents.
        context: Tokens after which everything is forgotten within a document; None for never.
        rank: The number of this process.
        world_size: The number of processes; all have the same number of batches.

    Raises:
        InputError: If a size is not usable.
    """

    def __init__(
        self,
        documents: Documents,
        batch_size: int,
        sequence_length: int,
        *,
        end: int,
        context: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_positive(batch_size=batch_size, sequence_length=sequence_length, world_size=world_size)
        if context is not None:
            check_positive(context=context)
        check_documents(documents)
        self.context = context
        self.length = sequence_length
        rows = shared_out(documents.lengths + 1, max(world_size, min(batch_size * world_size, len(documents))))
        sizes = np.array([int((documents.lengths[row] + 1).sum()) for row in rows])
        borders = np.concatenate([[0], np.cumsum(sizes)])
        self.longest = int(sizes.max())
        self.stream = documents.stream(np.concatenate(rows), end)
        self.begin, self.stop = borders[:-1][rank::world_size], borders[1:][rank::world_size]

    def __len__(self) -> int:
        return ceil_div(self.longest, self.length)

    def __iter__(self) -> Iterator[TokenBatch]:
        for column in range(0, self.longest, self.length):
            going = max(np.count_nonzero(self.begin + column < self.stop), 1)  # rows are sorted by length
            width = min(self.length, self.longest - column)
            yield read_rows(self.stream, self.begin[:going] + column, self.stop[:going], width, context=self.context)


def read_rows(
    stream: Stream, begin: np.ndarray, stop: np.ndarray, width: int, *, turn: int = 0, context: int | None = None
) -> TokenBatch:
    """Pieces of a stream of documents side by side.

    Args:
        stream: The documents.
        begin: The first place of each row (rows,).
        stop: The place from which on nothing counts (rows,).
        width: Places of a row.
        turn: Where in the stream place 0 is.
        context: Places after which a document is as if it began, but for its end token; None for never.
    """
    place = begin[:, None] + np.arange(width + 1)
    tokens, offset = stream.at(place + turn)
    starts = offset[:, :-1] == 0 if context is None else offset[:, :-1] % context == 0
    targets = np.where(place[:, :-1] < stop[:, None], tokens[:, 1:], NOT_COUNTED)
    return TokenBatch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in (tokens[:, :-1], targets, starts)))


def shared_out(sizes: np.ndarray, rows: int) -> list[np.ndarray]:
    """Which documents each row reads, longest row first.

    Example:
        >>> import numpy as np
        >>> [row.tolist() for row in shared_out(np.array([2, 9, 3, 4]), 2)]
        [[1], [3, 2, 0]]
    """
    heap = [(0, row) for row in range(rows)]
    found: list[list[int]] = [[] for _ in range(rows)]
    for document in np.argsort(-sizes, kind="stable"):
        size, row = heapq.heappop(heap)
        found[row].append(int(document))
        heapq.heappush(heap, (size + int(sizes[document]), row))
    by_size = sorted(found, key=lambda row: -int(sizes[row].sum()))
    return [np.array(row, dtype=np.int64) for row in by_size]


def ceil_div(count: int, size: int) -> int:
    """How many pieces of a size hold a count."""
    return -(-count // size)


def check_documents(documents: Documents) -> None:
    """Raise unless there is something to read."""
    if len(documents) == 0:
        raise InputError("there are no documents, but one at least is needed; look at the split.")
