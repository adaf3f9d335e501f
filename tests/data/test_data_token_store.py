"""Text becomes tokens on the disk once, and parts of documents."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from longstate._checks import InputError
from longstate.data import Documents, TextSource, TokenStore, split_documents, token_store
from longstate.models import ByteTokenizer


class Words:
    """A tokenizer with more tokens than uint16 holds: 60,000 and the length of each word."""

    vocabulary_size = 70_000
    digest = "words"

    def encode(self, text: bytes) -> np.ndarray:
        return np.array([69_000 + len(word) for word in text.split()], dtype=np.int64)


class Counting(ByteTokenizer):
    """Bytes, and how often it was asked."""

    asked = 0

    def encode(self, text: bytes) -> np.ndarray:
        type(self).asked += 1
        return super().encode(text)


def texts(store: TokenStore) -> list[bytes]:
    parts = np.split(np.asarray(store.tokens), store.ends[:-1])
    return [part.astype(np.uint8).tobytes() for part in parts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    for name, text in {
        "b.txt": "beta",
        "a.txt": "alpha\n",
        "deep/er/c.md": "gämma",
        "deep/er/empty.txt": "",
        "deep/er/d.py": "no text",
        "tests/e.txt": "left out",
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_a_folder_is_read_recursively_in_the_order_of_names(folder: Path, tmp_path: Path) -> None:
    store = token_store(TextSource(folder, exclude=["tests"]), ByteTokenizer(), tmp_path / "stores")
    assert store.names == ("a.txt", "b.txt", "deep/er/c.md")
    assert texts(store) == [b"alpha\n", b"beta", "gämma".encode()]
    assert store.sizes.tolist() == [6, 4, 6]
    assert (store.tokens.dtype, type(store.tokens)) == (np.dtype("<u2"), np.memmap)
    python = token_store(TextSource(folder, suffixes=(".py",)), ByteTokenizer(), tmp_path / "stores")
    assert python.names == ("deep/er/d.py",)


def test_lines_of_json_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    entries = [{"text": "one\ntwo", "n": 1}, {"text": "über"}, {"text": ""}]
    path.write_text("\n\n".join(json.dumps(entry) for entry in entries) + "\n")
    store = token_store(TextSource(path), ByteTokenizer(), tmp_path / "stores")
    assert (texts(store), store.names) == ([b"one\ntwo", "über".encode()], ())
    assert Documents(store, np.arange(2)).names == ()


def test_one_text_is_cut_at_the_ends_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"0123456\n" * 10)
    store = token_store(TextSource(path, cuts=(0.75, 0.9)), ByteTokenizer(), tmp_path / "stores")
    assert [len(text) for text in texts(store)] == [64, 16]  # 60 lies in line 8, and 72 at the beginning of line 10
    assert b"".join(texts(store)) == path.read_bytes()
    whole = token_store(TextSource(path), ByteTokenizer(), tmp_path / "stores")
    assert (whole.names, len(whole)) == (("book.txt",), 1)


def test_a_large_vocabulary_takes_four_bytes(folder: Path, tmp_path: Path) -> None:
    store = token_store(TextSource(folder), Words(), tmp_path / "stores")
    assert store.tokens.dtype == np.dtype("<u4")
    assert store.tokens.tolist() == [69_005, 69_004, 69_006, 69_004, 69_003]
    assert Documents(store, np.arange(4)).bytes == 6 + 4 + 6 + 8


def test_a_store_is_made_once(folder: Path, tmp_path: Path) -> None:
    source, stores = TextSource(folder), tmp_path / "stores"
    first = token_store(source, Counting(), stores)
    assert Counting.asked == 4
    assert token_store(TextSource(folder), Counting(), stores).digest == first.digest
    assert Counting.asked == 4
    assert token_store(source, Words(), stores).digest != first.digest
    os.utime(folder / "a.txt", (1, 1))  # the same text at another time: made again, and the same
    assert token_store(source, Counting(), stores).digest == first.digest
    assert Counting.asked == 8
    (folder / "a.txt").write_text("omega\n")
    assert token_store(source, Counting(), stores).digest != first.digest
    assert len(list(stores.iterdir())) == 4


def test_a_kill_leaves_no_store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self, text):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ByteTokenizer, "encode", killed)
        with pytest.raises(KeyboardInterrupt):
            token_store(TextSource(folder), ByteTokenizer(), tmp_path / "stores")
    assert not list((tmp_path / "stores").iterdir())
    assert len(token_store(TextSource(folder), ByteTokenizer(), tmp_path / "stores")) == 4


def test_what_another_process_made_meanwhile_is_taken(folder: Path, tmp_path: Path, monkeypatch) -> None:
    rename, stores = os.rename, tmp_path / "stores"

    def late(draft, path):
        os.makedirs(path)
        for name in os.listdir(draft):
            rename(os.path.join(draft, name), os.path.join(path, name))
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(os, "rename", late)
    assert len(token_store(TextSource(folder), ByteTokenizer(), stores)) == 4
    assert [path.name.startswith(".") for path in stores.iterdir()] == [False]


def test_what_cannot_be_read_is_said(folder: Path, tmp_path: Path) -> None:
    def refused(text: str, path: Path, **options: object) -> None:
        with pytest.raises(InputError, match=text):
            token_store(TextSource(path, **options), ByteTokenizer(), tmp_path / "stores")

    refused("is not a file, but a file is needed", folder / "missing.txt")
    refused(r"texts holds no document with a text, .* \(`data.suffixes`\)", folder, suffixes=(".rst",))
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "a"}\n{"text": 3}\n')
    refused("line 2 has no text in the field 'text' but 'text', and every line needs it; set `data.field`", lines)
    refused("line 1 has no text in the field 'body' but 'text'", lines, field="body")
    lines.write_text("[]\n")
    refused("line 1 has no text in the field 'text' but a list", lines)
    lines.write_text("{\n")
    refused(r"line 1 is not JSON \(.*\), but one JSON object a line is needed", lines)


def test_a_damaged_store_is_named(folder: Path, tmp_path: Path) -> None:
    token_store(TextSource(folder), ByteTokenizer(), tmp_path / "stores")
    (tokens,) = (tmp_path / "stores").rglob("tokens.bin")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"has 46 bytes, but 48 were written; delete the folder .*, and it is made"):
        token_store(TextSource(folder), ByteTokenizer(), tmp_path / "stores")


def test_a_text_that_the_tokenizer_refuses_is_named(folder: Path, tmp_path: Path) -> None:
    class Strict(ByteTokenizer):
        def encode(self, text: bytes) -> np.ndarray:
            raise InputError("the text is not UTF-8")

    with pytest.raises(InputError, match=r"^a\.txt: the text is not UTF-8"):
        token_store(TextSource(folder), Strict(), tmp_path / "stores")


def documents(sizes: list[int]) -> Documents:
    ends = np.cumsum(sizes)
    return Documents(TokenStore(np.arange(ends[-1]), ends, np.array(sizes), (), "digest"), np.arange(len(sizes)))


def test_a_part_knows_its_documents() -> None:
    part = documents([3, 1, 5, 2]).select(np.array([3, 1]))
    assert (len(part), part.tokens, part.bytes, part.predictions) == (2, 3, 3, 5)
    assert (part.begins.tolist(), part.lengths.tolist()) == ([9, 3], [2, 1])
    assert repr(part) == "Documents(2 documents, 3 tokens, 3 bytes)"
    assert part.digest() != part.select(np.array([1, 0])).digest()
    assert part.digest() == documents([3, 1, 5, 2]).select(np.array([3, 1])).digest()


def test_documents_are_divided_by_seed_whole_and_near_to_their_shares() -> None:
    random = np.random.default_rng(0)
    all_of = documents(random.integers(1, 2000, size=300).tolist())
    split = split_documents(all_of, validation=0.1, test=0.2, seed=3)
    assert sorted(np.concatenate(split).tolist()) == list(range(300))
    shares = [all_of.select(part).bytes / all_of.bytes for part in split]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.005)
    again = split_documents(all_of, validation=0.1, test=0.2, seed=3)
    assert all(np.array_equal(one, other) for one, other in zip(split, again, strict=True))
    assert not np.array_equal(split_documents(all_of, validation=0.1, test=0.2, seed=4).test, split.test)


@pytest.mark.parametrize(
    ("sizes", "validation", "test", "counts"),
    [
        ([5, 1000, 5], 0.05, 0.05, {(1, 1, 1): 20}),
        ([5, 5], 0.5, 0.0, {(1, 1, 0): 20}),
        ([5, 5], 0.0, 0.9, {(1, 0, 1): 20}),
        ([7], 0.0, 0.0, {(1, 0, 0): 20}),
    ],
)
def test_every_part_gets_a_document(sizes: list[int], validation: float, test: float, counts: dict) -> None:
    splits = [split_documents(documents(sizes), validation=validation, test=test, seed=seed) for seed in range(20)]
    assert Counter(tuple(map(len, split)) for split in splits) == counts


def test_fewer_documents_than_parts_are_refused() -> None:
    with pytest.raises(InputError, match="there are 2 documents, but training, validation and test need one each"):
        split_documents(documents([5, 5]), validation=0.1, test=0.1)
