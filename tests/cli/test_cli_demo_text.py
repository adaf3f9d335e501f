"""`longstate demo text`: with a small library and a small model."""

import bz2
import json
import lzma
import re
import sysconfig
from pathlib import Path

import pytest

from longstate.cli import demo_text

PYTHON = "import os\n\n\ndef main(path):\n    return os.path.join(path, '{}')\n"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A library of forty files, and tests that are no part of it."""
    library = tmp_path / "library"
    for number in range(40):
        place = library / ("json" if number % 2 else "test" if number % 4 == 2 else "email")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.py").write_text(PYTHON.format(number) * (1 + number % 5))
    (library / "README.txt").write_text("no Python")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setitem(demo_text.MODEL, "backbone", {"d_model": 8, "n_layers": 1, "layer": {"d_state": 2}})
    monkeypatch.setitem(demo_text.TRAINING, "sequence_length", 32)
    return library


def test_the_demo_trains_judges_writes_and_leaves_everything_behind(run, small: Path, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    said = run("demo", "text", "--output", output, "--minutes", 0.02)
    assert said.code == 0
    assert "Python's own library, 30 files without its tests" in said.out
    facts = json.loads((output / "model" / "training.json").read_text())
    test = facts["parts"]["test"]
    assert test
    assert not set(test) & set(facts["parts"]["train"])
    assert not any(name.startswith("test/") for part in facts["parts"].values() for name in part)
    text = b"".join((small / name).read_bytes() for name in test)
    sizes = len(bz2.compress(text, 9)), len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    beside = "bz2 {:.3f}, xz {:.3f}".format(*(8 * size / len(text) for size in sizes))
    assert beside in said.out
    assert f"bits per byte on the unseen files: {facts['test']['bits_per_byte']:.3f}" in said.out
    judged = json.loads(run("evaluate", output / "model", small, "--split", "test", "--json").out)
    assert judged["bits_per_byte"] == pytest.approx(facts["test"]["bits_per_byte"], rel=1e-5)
    assert judged["context"] is None
    assert re.search(r"bytes, \d+ a second", said.out)
    assert run("generate", output, "--prompt", "def main(", "--max-new-tokens", 5).code == 0
    assert run("demo", "text", "--output", output, "--minutes", 0.02).code == 0


def test_a_demo_has_its_own_options(run, tmp_path: Path) -> None:
    for arguments, message in (
        (["words"], "`WHAT` is 'words', but one of watch, text is needed"),
        (["text", "--epochs", 3], "`--epochs` is 3, but the demo text counts minutes; give --minutes"),
        (["watch", "--minutes", 3], "`--minutes` is 3, but the demo watch counts epochs; give --epochs"),
        (["text", "--minutes", 0], "training.max_minutes: `max_minutes` is 0.0, but a number of more than 0 is needed"),
    ):
        said = run("demo", *arguments, "--output", tmp_path / "demo")
        assert (said.code, said.out) == (2, "")
        assert message in said.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    said = run("demo", "text", "--output", tmp_path / "mine")
    assert "is not empty and no earlier demo made it; choose another folder with --output" in said.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_library_without_source_is_one_sentence(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing").mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nothing"))
    said = run("demo", "text", "--output", tmp_path / "demo")
    assert said.code == 2
    assert "holds no document with a text, but one at least is needed" in said.err
