"""Tasks over tokens: what was seen has to be said again, at another time or when it is asked for."""

from typing import NamedTuple

import numpy as np

from longstate._checks import InputError, check_positive
from longstate.data.labels import UNKNOWN
from longstate.data.randomness import random_generator


class TokenTask(NamedTuple):
    """Sequences of tokens and what is to be answered at their steps.

    Args:
        x: Token numbers (count, steps) int64, places in `tokens`.
        y: What is to be answered (count, steps) int64, places in `classes`; -1 at steps that do not count.
        tokens: The name of each token.
        classes: The names of the tokens that are answers.
    """

    x: np.ndarray
    y: np.ndarray
    tokens: tuple[str, ...]
    classes: tuple[str, ...]


def copying(count: int, seed: int, *, length: int = 100, tokens: int = 10, vocabulary: int = 10) -> TokenTask:
    """Remember the first tokens through a long blank, then say them in their order.

        x = c_1 .. c_m, blank * length, marker * m,    y = c_1 .. c_m at the markers

    Args:
        count: Sequences.
        seed: Other sequences for another seed.
        length: Blanks between the last token and the first marker.
        tokens: m, the tokens to remember.
        vocabulary: All tokens: blank, marker, and `vocabulary - 2` that are to be remembered.

    Returns:
        Sequences of length + 2 m steps.

    Raises:
        InputError: If a size is not usable.

    Source: Arjovsky, Shah, Bengio, arXiv 1511.06464, section 4.1; the sizes are those of the S4 code.

    Example:
        >>> task = copying(1, 0, length=2, tokens=3)
        >>> [task.tokens[token] for token in task.x[0]]
        ['7', '6', '5', 'blank', 'blank', 'marker', 'marker', 'marker']
        >>> task.y[0].tolist(), [task.classes[answer] for answer in task.y[0, 5:]]
        ([-1, -1, -1, -1, -1, 6, 5, 4], ['7', '6', '5'])
    """
    check_positive(count=count, length=length, tokens=tokens)
    said = _said(random_generator(seed), count, tokens, vocabulary)
    blanks = np.zeros((count, length), dtype=np.int64)
    return _to_be_said(np.concatenate([said, blanks], axis=1), said, vocabulary)


def selective_copying(count: int, seed: int, *, length: int = 256, tokens: int = 16, vocabulary: int = 16) -> TokenTask:
    """Copying in which the tokens stand anywhere among the blanks, so that a fixed delay does not find them.

        x = c_1 .. c_m at random places among blanks, marker * m,    y = c_1 .. c_m at the markers

    Args:
        count: Sequences.
        seed: Other sequences for another seed.
        length: Steps before the first marker: tokens and blanks.
        tokens: m, the tokens to remember.
        vocabulary: All tokens: blank, marker, and `vocabulary - 2` that are to be remembered.

    Returns:
        Sequences of length + m steps.

    Raises:
        InputError: If a size is not usable.

    Source: Gu, Dao, arXiv 2312.00752, sections 3.1 and E.1 (there with a length of 4096).

    Example:
        >>> task = selective_copying(1, 0, length=6, tokens=2)
        >>> [task.tokens[token] for token in task.x[0]]
        ['blank', '12', '9', 'blank', 'blank', 'blank', 'marker', 'marker']
        >>> [task.classes[answer] for answer in task.y[0, 6:]]
        ['12', '9']
    """
    check_positive(count=count, length=length, tokens=tokens)
    if tokens > length:
        raise InputError(
            f"`tokens` is {tokens} for a `length` of {length}, but each token needs a step of its own; "
            "make `length` larger."
        )
    random = random_generator(seed)
    said = _said(random, count, tokens, vocabulary)
    places = np.sort(random.random((count, length)).argsort(axis=1)[:, :tokens], axis=1)
    seen = np.zeros((count, length), dtype=np.int64)
    np.put_along_axis(seen, places, said, axis=1)
    return _to_be_said(seen, said, vocabulary)


def associative_recall(
    count: int, seed: int, *, length: int = 40, vocabulary: int = 20, every_key: bool = False
) -> TokenTask:
    """A new dictionary in every sequence: keys and values in turn, then a key whose value is to be said.

        x = k_1 v(k_1) k_2 v(k_2) .. k_n v(k_n) marker k,    y = v(k) at the last step

    Args:
        count: Sequences.
        seed: Other sequences, with other dictionaries, for another seed.
        length: Tokens before the marker, 2 n.
        vocabulary: All tokens as the papers count: as many keys as values, the marker, and one that never occurs.
        every_key: Also ask for the value at each key that occurred before, which the next step shows: to train with.

    Returns:
        Sequences of 2 n + 2 steps. Keys are drawn with replacement; the last is any key that occurred.

    Raises:
        InputError: If a size is not usable.

    Source: Fu et al., Hungry Hungry Hippos, arXiv 2212.14052, section 3.1; the rules are those of its code.

    Example:
        >>> task = associative_recall(1, 5, length=6, vocabulary=8)
        >>> [task.tokens[token] for token in task.x[0]]
        ['key 2', 'value 0', 'key 1', 'value 2', 'key 1', 'value 2', 'marker', 'key 2']
        >>> task.classes[task.y[0, -1]]
        'value 0'
    """
    check_positive(count=count, length=length)
    if length % 2 or vocabulary < 6:
        raise InputError(
            f"`length` is {length} and `vocabulary` {vocabulary}, but pairs of two keys at least and their values are "
            "needed; make `length` even and `vocabulary` at least 6."
        )
    random = random_generator(seed)
    size, pairs = (vocabulary - 2) // 2, length // 2
    values = random.integers(size, size=(count, size))
    keys = random.integers(size, size=(count, pairs))
    occurs = np.zeros((count, size), dtype=bool)
    np.put_along_axis(occurs, keys, True, axis=1)
    last = np.where(occurs, random.random((count, size)), -1.0).argmax(axis=1)[:, None]
    answers = np.take_along_axis(values, keys, axis=1)
    x = np.empty((count, length + 2), dtype=np.int64)
    x[:, 0:length:2], x[:, 1:length:2] = 1 + keys, 1 + size + answers
    x[:, length], x[:, length + 1 :] = 0, 1 + last
    y = np.full_like(x, UNKNOWN)
    y[:, -1:] = np.take_along_axis(values, last, axis=1)
    if every_key:
        before = np.tril(np.ones((pairs, pairs), dtype=bool), -1)
        again = ((keys[:, :, None] == keys[:, None, :]) & before).any(axis=2)
        y[:, 0:length:2] = np.where(again, answers, UNKNOWN)
    names = tuple(f"key {key}" for key in range(size)), tuple(f"value {value}" for value in range(size))
    return TokenTask(x, y, ("marker", *names[0], *names[1]), names[1])


def induction_heads(count: int, seed: int, *, length: int = 30, vocabulary: int = 20) -> TokenTask:
    """Say what followed the marker when it came for the first time.

        x = random tokens, marker, c, random tokens, marker,    y = c at the last step

    Args:
        count: Sequences.
        seed: Other sequences for another seed.
        length: Steps before the last one.
        vocabulary: All tokens as the papers count: the marker, one that never occurs, and `vocabulary - 2` others.

    Returns:
        Sequences of length + 1 steps.

    Raises:
        InputError: If a size is not usable.

    Source: Fu et al., Hungry Hungry Hippos, arXiv 2212.14052, section 3.1; the rules are those of its code.

    Example:
        >>> task = induction_heads(1, 0, length=6)
        >>> [task.tokens[token] for token in task.x[0]]
        ['marker', '11', '9', '4', '5', '0', 'marker']
        >>> task.classes[task.y[0, -1]]
        '11'
    """
    check_positive(count=count)
    if length < 3 or vocabulary < 4:
        raise InputError(
            f"`length` is {length} and `vocabulary` {vocabulary}, but a marker, a token after it and another are "
            "needed; make `length` at least 3 and `vocabulary` at least 4."
        )
    random = random_generator(seed)
    x = np.zeros((count, length + 1), dtype=np.int64)
    x[:, :length] = 1 + random.integers(vocabulary - 2, size=(count, length))
    place = random.integers(length - 2, size=count)
    rows = np.arange(count)
    x[rows, place] = 0
    y = np.full_like(x, UNKNOWN)
    y[:, -1] = x[rows, place + 1] - 1
    names = tuple(str(token) for token in range(vocabulary - 2))
    return TokenTask(x, y, ("marker", *names), names)


def _said(random: np.random.Generator, count: int, tokens: int, vocabulary: int) -> np.ndarray:
    """The tokens to remember (count, tokens): all but blank, which is 0, and the marker, which is the last."""
    if vocabulary < 4:
        raise InputError(
            f"`vocabulary` is {vocabulary}, but blank, marker and two tokens to remember are needed; "
            "make it at least 4."
        )
    return random.integers(1, vocabulary - 1, size=(count, tokens))


def _to_be_said(seen: np.ndarray, said: np.ndarray, vocabulary: int) -> TokenTask:
    """What was seen (count, length), then a marker for each token to be said."""
    names = tuple(str(token) for token in range(1, vocabulary - 1))
    markers, silent = np.full_like(said, vocabulary - 1), np.full_like(seen, UNKNOWN)
    x, y = np.concatenate([seen, markers], axis=1), np.concatenate([silent, said - 1], axis=1)
    return TokenTask(x, y, ("blank", *names, "marker"), names)
