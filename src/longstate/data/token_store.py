"""Tokens on the disk: written once, mapped into memory ever after."""

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from longstate._checks import InputError
from longstate.data.text_source import TextSource

TOKENS, TABLE, ABOUT = "tokens.bin", "documents.npy", "store.json"
_FORMAT = 1


class Encoder(Protocol):
    """What a store needs of a tokenizer: its size, a digest that tells it from others, and the ids of a text."""

    vocabulary_size: int
    digest: str

    def encode(self, text: bytes) -> np.ndarray:
        """The ids of a text in UTF-8."""
        ...


@dataclass(frozen=True, eq=False)
class TokenStore:
    """The tokens of many documents, one after the other.

    Args:
        tokens: All ids, uint16 or uint32, mapped from a file.
        ends: Where each document ends in `tokens` (documents,) int64.
        sizes: Bytes of the text of each document (documents,) int64.
        names: Of the documents; empty where they are lines of one file.
        digest: Of ids, ends and sizes.
    """

    tokens: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray
    names: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.ends)


def token_store(source: TextSource, encoder: Encoder, folder: str | Path) -> TokenStore:
    """The tokens of a source, from the disk if they are there already.

    A store lies in a folder of its own, named after the source's fingerprint and the tokenizer: a changed source or
    another tokenizer finds none and makes its own. It appears when it is whole, so a kill leaves nothing that could be
    mistaken for one.

    Args:
        source: The documents.
        encoder: The tokenizer.
        folder: Where stores are kept; made if needed.

    Returns:
        The store; its tokens stay on the disk until they are used.

    Raises:
        InputError: If there is no document, or a store is damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from longstate.data import TextSource, token_store
        >>> from longstate.models import ByteTokenizer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.txt").write_text("one")
        ...     _ = Path(folder, "b.txt").write_text("three")
        ...     store = token_store(TextSource(folder), ByteTokenizer(), Path(folder, "tokens"))
        ...     store.ends.tolist(), store.tokens.dtype
        ([3, 8], dtype('uint16'))
    """
    key = json.dumps([_FORMAT, encoder.digest, source.fingerprint()])
    path = Path(folder) / hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    if not (path / ABOUT).is_file():
        _write(path, source, encoder)
    return _open(path)


def _write(path: Path, source: TextSource, encoder: Encoder) -> None:
    """Write a store beside its place, and move it there when it is on the disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    draft.mkdir(parents=True)
    try:
        about, table = _write_tokens(draft / TOKENS, source, encoder)
        if not len(table):
            raise InputError(
                f"{source.path} holds no document with a text, but one at least is needed; check the path and the "
                "suffixes (`data.suffixes`) that are searched for."
            )
        np.save(draft / TABLE, table)
        (draft / ABOUT).write_text(json.dumps(about))
        try:
            os.rename(draft, path)
        except OSError:
            if not (path / ABOUT).is_file():  # else another process made the same meanwhile
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_tokens(path: Path, source: TextSource, encoder: Encoder) -> tuple[dict[str, Any], np.ndarray]:
    """Write the ids; what is told of them, and the end and the size of every document (documents, 2)."""
    dtype = np.dtype("<u2" if encoder.vocabulary_size <= 1 << 16 else "<u4")
    digest, ends, sizes, names, count = hashlib.blake2b(digest_size=16), [], [], [], 0
    with path.open("wb") as file:
        for name, text in source.documents():
            try:
                ids = encoder.encode(text)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            if len(ids):
                content = ids.astype(dtype).tobytes()
                file.write(content)
                digest.update(content)
                count += len(ids)
                ends.append(count)
                sizes.append(len(text))
                names.append(name)
        file.flush()
        os.fsync(file.fileno())
    table = np.stack([np.array(ends, dtype=np.int64), np.array(sizes, dtype=np.int64)], axis=1)
    digest.update(table.tobytes())
    about = {"format": _FORMAT, "dtype": dtype.str, "tokens": count, "digest": digest.hexdigest()}
    return about | {"names": names if source.has_names else []}, table


def _open(path: Path) -> TokenStore:
    about = json.loads((path / ABOUT).read_text())
    table = np.load(path / TABLE, allow_pickle=False)
    dtype, count = np.dtype(about["dtype"]), about["tokens"]
    size = (path / TOKENS).stat().st_size
    if size != count * dtype.itemsize or (about["names"] and len(table) != len(about["names"])):
        raise InputError(
            f"{path / TOKENS} has {size} bytes, but {count * dtype.itemsize} were written; delete the folder {path}, "
            "and it is made again."
        )
    tokens = np.memmap(path / TOKENS, dtype=dtype, mode="r", shape=(count,))
    return TokenStore(tokens, table[:, 0], table[:, 1], tuple(about["names"]), about["digest"])
