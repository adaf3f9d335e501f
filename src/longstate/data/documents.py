"""Documents of a token store, and which of them train, validate and test."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from longstate._checks import InputError
from longstate.data.randomness import random_generator
from longstate.data.token_store import TokenStore


@dataclass(frozen=True, eq=False, repr=False)
class Documents:
    """Some of the documents of a store.

    As one stream, every document stands behind an end token, which also ends the one before:

        end, x_1 .. x_n, end, x_1 .. x_m, end, ...

    so that a model that reads the stream and forgets everything at each end predicts every token of every document, the
    first one from nothing, and where it ends.

    Args:
        store: Where the tokens are.
        rows: Which documents, int64.
    """

    store: TokenStore
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Documents({len(self):,} documents, {self.tokens:,} tokens, {self.bytes:,} bytes)"

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document (documents,)."""
        return self.store.ends[self.rows] - self.begins

    @property
    def begins(self) -> np.ndarray:
        """Where each document begins in the store (documents,)."""
        return np.concatenate([[0], self.store.ends])[self.rows]

    @property
    def tokens(self) -> int:
        """Tokens of all documents, their ends not counted."""
        return int(self.lengths.sum())

    @property
    def bytes(self) -> int:
        """Bytes of their text."""
        return int(self.store.sizes[self.rows].sum())

    @property
    def predictions(self) -> int:
        """What a model is asked in one pass: every token and every end."""
        return self.tokens + len(self)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the documents; empty where they have none."""
        return tuple(self.store.names[row] for row in self.rows) if self.store.names else ()

    def select(self, rows: np.ndarray) -> "Documents":
        """Some of them, in that order."""
        return dataclasses.replace(self, rows=self.rows[rows])

    def stream(self, order: np.ndarray, end: int) -> "Stream":
        """The stream in which the documents come in `order`, a permutation (documents,), between end tokens `end`."""
        first = np.concatenate([[0], np.cumsum(self.lengths[order] + 1)])
        return Stream(self.store.tokens, first, self.begins[order], end)

    def digest(self) -> str:
        """Tells these documents from others."""
        digest = hashlib.blake2b(self.store.digest.encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.rows, dtype="<i8").tobytes())
        return digest.hexdigest()


class Stream(NamedTuple):
    """Documents one after the other, each behind an end token; after the last one the first comes again.

    Args:
        tokens: Of the store.
        first: The place of every end token, and the number of all places (documents + 1,).
        begins: Where each document begins in `tokens` (documents,).
        end: The end token.

    Example:
        >>> import numpy as np
        >>> from longstate.data import Documents, TokenStore
        >>> ends = np.array([2, 5])
        >>> documents = Documents(TokenStore(np.arange(5), ends, ends, (), ""), np.arange(2))
        >>> documents.stream(np.array([1, 0]), end=9).at(np.arange(8))[0].tolist()
        [9, 2, 3, 4, 9, 0, 1, 9]
    """

    tokens: np.ndarray
    first: np.ndarray
    begins: np.ndarray
    end: int

    def at(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (int64) at places of any shape, and how many places each is behind the end token before it."""
        place = place % self.first[-1]
        which = np.searchsorted(self.first, place, side="right") - 1
        offset = place - self.first[which]
        tokens = self.tokens[self.begins[which] + np.maximum(offset, 1) - 1].astype(np.int64)
        return np.where(offset == 0, self.end, tokens), offset


class DocumentSplit(NamedTuple):
    """Row numbers of the three parts, int64, ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_documents(
    documents: Documents, *, validation: float = 0.05, test: float = 0.05, seed: int = 0
) -> DocumentSplit:
    """Divide documents into training, validation and test parts, whole documents, by their bytes.

    Args:
        documents: What is to be divided.
        validation: Share of the bytes to validate with, 0 for none.
        test: Share of the bytes to test with, 0 for none.
        seed: Another seed, another division.

    Returns:
        The row numbers of each part: as near to its share as a random order of the documents allows, and one document
        at least where the share is not 0.

    Raises:
        InputError: If there are fewer documents than parts.

    Example:
        >>> import numpy as np
        >>> from longstate.data import Documents, TokenStore, split_documents
        >>> ends = np.arange(10, 110, 10)
        >>> documents = Documents(TokenStore(np.zeros(100), ends, np.full(10, 10), (), ""), np.arange(10))
        >>> [len(part) for part in split_documents(documents, validation=0.2, test=0.1)]
        [7, 2, 1]
    """
    parts = 1 + (validation > 0) + (test > 0)
    if len(documents) < parts:
        raise InputError(
            f"there are {len(documents)} documents, but training, validation and test need one each; add documents, "
            "name a source to validate with, or set a share to 0."
        )
    order = random_generator(seed).permutation(len(documents))
    done = np.cumsum(documents.store.sizes[documents.rows[order]]).astype(float)
    first = _nearest(done, test * done[-1], least=1 if test else 0, most=len(order) - parts + (test > 0))
    base = done[first - 1] if first else 0.0
    least = first + (1 if validation else 0)
    second = _nearest(done, base + validation * done[-1], least=least, most=len(order) - 1) if validation else first
    return DocumentSplit(np.sort(order[second:]), np.sort(order[first:second]), np.sort(order[:first]))


def _nearest(done: np.ndarray, wanted: float, *, least: int, most: int) -> int:
    """How many of the first documents hold nearest to `wanted` bytes, between `least` and `most`."""
    counts = np.arange(least, most + 1)
    held = np.concatenate([[0.0], done])[counts]
    return int(counts[np.argmin(np.abs(held - wanted))])
