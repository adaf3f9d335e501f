"""Where text comes from: a file, a folder of files, or one document a line of JSON."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from longstate._checks import InputError
from longstate.data.recording import existing_file

JSON_LINES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (".txt", ".md")
"""What a folder is searched for, if nothing else is said."""


class Document(NamedTuple):
    """A text and what it is called."""

    name: str
    text: bytes


@dataclass(frozen=True)
class TextSource:
    """Documents in a place.

    Args:
        path: A text file (one document); a `.jsonl` file (a document a line); or a folder, searched recursively.
        suffixes: Of the files of a folder that are documents.
        exclude: Names of folders, anywhere in that folder, that are left out.
        field: Of the JSON objects, where their text is.
        cuts: Shares at which a single text file is cut into documents, at the next end of a line.

    Raises:
        InputError: If the place does not exist.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from longstate.data import TextSource
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.txt").write_text("one")
        ...     _ = Path(folder, "b.py").write_text("two")
        ...     [document.name for document in TextSource(folder).documents()]
        ['a.txt']
    """

    path: str | Path
    suffixes: Sequence[str] = TEXT_SUFFIXES
    exclude: Sequence[str] = ()
    field: str = "text"
    cuts: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.is_folder:
            existing_file(Path(self.path))

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return Path(self.path).is_dir()

    @property
    def is_single(self) -> bool:
        """Whether it is one text."""
        return not self.is_folder and Path(self.path).suffix.lower() not in JSON_LINES

    @property
    def has_names(self) -> bool:
        """Whether documents have names, and not only numbers."""
        return self.is_folder or self.is_single

    def documents(self) -> Iterator[Document]:
        """Every document that is not empty, in a fixed order.

        Raises:
            InputError: If a line is no JSON object with the field.
        """
        for name, path in self._files():
            if self.is_folder:
                found = iter([Document(name, path.read_bytes())])
            else:
                found = self._pieces(path) if self.is_single else self._lines(path)
            yield from (document for document in found if document.text)

    def fingerprint(self) -> str:
        """A digest of what decides the documents: their files, by name, size and time of change, and how they are read.

        Another fingerprint does not mean other documents, but the same one means the same, unless somebody sets clocks
        back.
        """
        parts = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in self._files()]
        how = [list(self.cuts) if self.is_single else None, None if self.is_folder or self.is_single else self.field]
        return hashlib.blake2b(json.dumps([parts, how]).encode(), digest_size=16).hexdigest()

    def _files(self) -> list[tuple[str, Path]]:
        """Names and paths, sorted by name."""
        root = Path(self.path)
        if not self.is_folder:
            return [(root.name, root)]
        found = []
        for place, folders, names in os.walk(root):
            folders[:] = [folder for folder in folders if folder not in self.exclude]
            paths = [Path(place, name) for name in names if name.endswith(tuple(self.suffixes))]
            found += [(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]
        return sorted(found)

    def _pieces(self, path: Path) -> Iterator[Document]:
        """The text of a file, cut at the ends of lines."""
        text = path.read_bytes()
        borders = [0]
        for share in self.cuts:
            place = text.find(b"\n", round(share * len(text)))
            borders.append(len(text) if place < 0 else place + 1)
        for number, (begin, end) in enumerate(zip(borders, [*borders[1:], len(text)], strict=True), start=1):
            yield Document(f"{path.name}, part {number}" if self.cuts else path.name, text[begin:end])

    def _lines(self, path: Path) -> Iterator[Document]:
        """The texts of a file of JSON lines."""
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Document(f"line {number}", self._text(line, f"{path}, line {number}"))

    def _text(self, line: bytes, place: str) -> bytes:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{place} is not JSON ({error}), but one JSON object a line is needed; correct it."
            ) from error
        text = entry.get(self.field) if isinstance(entry, dict) else None
        if not isinstance(text, str):
            known = ", ".join(map(repr, entry)) if isinstance(entry, dict) else f"a {type(entry).__name__}"
            raise InputError(
                f"{place} has no text in the field {self.field!r} but {known or 'nothing'}, and every line needs it; "
                "set `data.field` to the name of the field that holds the text."
            )
        return text.encode()
