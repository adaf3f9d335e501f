"""Text to ids and back, whole and token by token."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longstate._checks import InputError
from longstate.models import ByteTokenizer, FileTokenizer, Tokenizer, load_tokenizer
from small_tokenizer import TEXT, write_tokenizer


@pytest.fixture(scope="module", params=["bytes", "file"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "bytes":
        return ByteTokenizer()
    return FileTokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"))


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join([*(stream.push(token) for token in ids), stream.finish()])


def test_text_goes_there_and_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT.encode()).tolist()
    assert len(ids) > 3
    assert max(ids) < tokenizer.vocabulary_size
    assert tokenizer.decode(ids) == TEXT
    assert streamed(tokenizer, ids) == TEXT
    assert streamed(tokenizer, [*ids, tokenizer.vocabulary_size]) == TEXT


def test_a_character_appears_when_it_is_whole(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode("🎉é".encode()).tolist()]
    assert "".join(pieces) == "🎉é"
    assert all("\ufffd" not in piece for piece in pieces)
    stream = tokenizer.stream()
    assert stream.push(tokenizer.encode("é".encode()).tolist()[0]) + stream.finish() in ("\ufffd", "é")


@given(ids=st.lists(st.integers(0, 255), max_size=12))
def test_what_is_no_text_is_replaced(ids: list[int]) -> None:
    assert streamed(ByteTokenizer(), ids) == bytes(ids).decode(errors="replace")


def test_a_file_that_never_makes_sense_is_shown_at_once_after_four_tokens(tmp_path: Path) -> None:
    tokenizer = FileTokenizer(write_tokenizer(tmp_path / "tokenizer.json"))
    broken = tokenizer.encode("🎉".encode()).tolist()[0]
    stream = tokenizer.stream()
    pieces = [stream.push(broken) for _ in range(9)]
    assert [bool(piece) for piece in pieces].count(True) >= 2


def test_names_of_tokens(tmp_path: Path) -> None:
    tokenizer = FileTokenizer(write_tokenizer(tmp_path / "tokenizer.json"))
    assert tokenizer.token_id("<|endoftext|>") == 0
    assert tokenizer.decode([0]) == ""
    with pytest.raises(InputError, match=r"`end_token` is '</s>', which the tokenizer does not have"):
        tokenizer.token_id("</s>")


def test_a_digest_tells_tokenizers_apart(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    first = FileTokenizer(path).digest
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert FileTokenizer(path).digest != first != ByteTokenizer().digest


def test_what_cannot_be_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"`.*other\.json` is not a tokenizer\.json \(.*\), but a file of the package"):
        FileTokenizer(tmp_path / "other.json")
    with pytest.raises(InputError, match=r"missing\.json` could not be read \(No such file or directory\)"):
        FileTokenizer(tmp_path / "missing.json")
    path = write_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match=r"the text is not UTF-8 \(at byte 1\), but this tokenizer needs it"):
        FileTokenizer(path).encode(b"a\xff")
    with pytest.raises(InputError, match=r"knows ids only, but a tokenizer is needed for text"):
        load_tokenizer(None, tmp_path, vocabulary_size=300)
    with pytest.raises(InputError, match=r"has no gone\.json, but the tokenizer of the model is needed; copy it"):
        load_tokenizer("gone.json", tmp_path, vocabulary_size=300)
    with pytest.raises(InputError, match=r"the tokenizer has \d+ tokens, but the model knows 257, and must know all"):
        load_tokenizer("tokenizer.json", tmp_path, vocabulary_size=257)
    assert load_tokenizer("tokenizer.json", tmp_path, vocabulary_size=300).decode([0]) == ""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"tokenizers, which is not installed; run `pip install 'longstate\[text\]'`"):
        FileTokenizer(path)
