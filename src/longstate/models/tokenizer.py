"""Tokenizers: text to ids and back, also token by token; bytes as they are, or the file of a trained tokenizer."""

import abc
import codecs
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longstate._checks import InputError

BYTES = "bytes"
"""The tokenizer's name in a configuration where ids are bytes."""

_LONGEST = 4  # tokens of one character: as many as it has bytes


class Tokenizer(abc.ABC):
    """Text to ids and back.

    Ids that are none of its own (the end of a text beside bytes) are passed over in decoding.
    """

    vocabulary_size: int
    digest: str

    @abc.abstractmethod
    def encode(self, text: bytes) -> np.ndarray:
        """The ids of a text in UTF-8, int64."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; what is no UTF-8 becomes U+FFFD."""

    @abc.abstractmethod
    def stream(self) -> "TextStream":
        """A decoder that takes one id after the other."""


class TextStream(abc.ABC):
    """Text from one id after the other: all its pieces together are what `decode` gives."""

    @abc.abstractmethod
    def push(self, token: int) -> str:
        """The text that this id completes; empty while a character is not whole."""

    @abc.abstractmethod
    def finish(self) -> str:
        """What is left at the end."""


class ByteTokenizer(Tokenizer):
    """Bytes are the ids.

    Example:
        >>> from longstate.models import ByteTokenizer
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.encode("é!".encode()).tolist(), tokenizer.decode([195, 169, 33, 256])
        ([195, 169, 33], 'é!')
    """

    vocabulary_size = 256
    digest = BYTES

    def encode(self, text: bytes) -> np.ndarray:
        """The bytes themselves, UTF-8 or not."""
        return np.frombuffer(text, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The text that the bytes are."""
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def stream(self) -> TextStream:
        """A decoder of UTF-8."""
        return _ByteStream()


class FileTokenizer(Tokenizer):
    """A `tokenizer.json` of Hugging Face, through the package tokenizers.

    Truncation, padding and special tokens that the file asks for are left out: ids are those of the text alone.

    Args:
        path: Of the file.

    Raises:
        InputError: If the package is not installed, or the file is none.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            from tokenizers import Tokenizer as Backend
        except ModuleNotFoundError as error:
            raise InputError(
                f"{path} needs the package tokenizers, which is not installed; run `pip install 'longstate[text]'`."
            ) from error
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(
                f"`{path}` could not be read ({error.strerror}), but a tokenizer.json is needed; check the path."
            ) from error
        try:
            self._backend: Any = Backend.from_buffer(content)
        except Exception as error:  # the package raises nothing narrower
            raise InputError(
                f"`{path}` is not a tokenizer.json ({error}), but a file of the package tokenizers is needed; check "
                "the path."
            ) from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self.vocabulary_size = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.digest = hashlib.sha256(content).hexdigest()

    def encode(self, text: bytes) -> np.ndarray:
        """The ids of a text.

        Raises:
            InputError: If it is not UTF-8.
        """
        try:
            return np.array(self._backend.encode(text.decode(), add_special_tokens=False).ids, dtype=np.int64)
        except UnicodeDecodeError as error:
            raise InputError(
                f"the text is not UTF-8 (at byte {error.start}), but this tokenizer needs it; convert the text, or "
                "take the tokenizer 'bytes'."
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._backend.decode([int(token) for token in ids if token < self.vocabulary_size])

    def stream(self) -> TextStream:
        """A decoder that waits for whole characters."""
        return _FileStream(self)

    def token_id(self, token: str) -> int:
        """The id of a token by its name, such as "<|endoftext|>".

        Raises:
            InputError: If there is none.
        """
        found = self._backend.token_to_id(token)
        if found is None:
            raise InputError(
                f"`end_token` is {token!r}, which the tokenizer does not have, but one of its tokens is needed; leave "
                "it out to add one."
            )
        return found


def load_tokenizer(name: str | None, folder: str | Path, *, vocabulary_size: int) -> Tokenizer:
    """The tokenizer that a language model's configuration names.

    Args:
        name: "bytes", or the name of a file in `folder`; None where only ids are known.
        folder: Of the model.
        vocabulary_size: Of the model.

    Raises:
        InputError: If there is none, or it has more tokens than the model.

    Example:
        >>> from longstate.models import load_tokenizer
        >>> load_tokenizer("bytes", ".", vocabulary_size=257).decode([104, 105])
        'hi'
    """
    if name is None:
        raise InputError(
            f"the model in {folder} knows ids only, but a tokenizer is needed for text; put its tokenizer.json there "
            'and write "tokenizer": "tokenizer.json" into config.json.'
        )
    path = Path(folder) / name
    if name != BYTES and not path.is_file():
        raise InputError(
            f"{folder} has no {name}, but the tokenizer of the model is needed; copy it from where the model was saved."
        )
    tokenizer = ByteTokenizer() if name == BYTES else FileTokenizer(path)
    check_fit(tokenizer, vocabulary_size)
    return tokenizer


def check_fit(tokenizer: Tokenizer, vocabulary_size: int) -> None:
    """Raise unless a model knows every token of a tokenizer."""
    if tokenizer.vocabulary_size > vocabulary_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocabulary_size} tokens, but the model knows {vocabulary_size}, and must "
            "know all of them; take the tokenizer it was trained with."
        )


class _ByteStream(TextStream):
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token])) if token < 256 else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _FileStream(TextStream):
    """Decodes the last tokens together with those before them, since a token's text depends on its neighbours."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._said: list[int] = []
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        self._waiting.append(token)
        text = self._new()
        if text.endswith("\ufffd") and len(self._waiting) < _LONGEST:
            return ""
        if text:
            self._said, self._waiting = self._waiting, []
        return text

    def finish(self) -> str:
        return self._new()

    def _new(self) -> str:
        before = self._tokenizer.decode(self._said)
        return self._tokenizer.decode([*self._said, *self._waiting])[len(before) :]
