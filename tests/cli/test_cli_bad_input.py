"""Everything that can be wrong with what a user gives: one sentence that names it, exit 2, nothing half-written."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from longstate import models

SMALL = {"d_model": 4, "n_layers": 1, "layer": {"d_state": 4}}


def rewrite(manifest: Path, line: int, text: str) -> None:
    lines = manifest.read_text().splitlines()
    lines[line] = text
    manifest.write_text("\n".join(lines) + "\n")


def keep(manifest: Path, wanted: Callable[[str], bool]) -> None:
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], *filter(wanted, lines[1:])]) + "\n")


def write(path: Path, text: str) -> None:
    path.write_text(text)


RECORDINGS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a missing file": (lambda m: (m.parent / "3.csv").unlink(), ("manifest.csv, line 5", "'3.csv'")),
    "an empty file": (lambda m: write(m.parent / "3.csv", ""), ("3.csv is empty (0 bytes)",)),
    "a file of blank lines": (lambda m: write(m.parent / "3.csv", "\n\n"), ("3.csv", "blank lines only")),
    "a header without rows": (lambda m: write(m.parent / "3.csv", "ax,ay\n"), ("3.csv", "no rows")),
    "a row cut short": (lambda m: write(m.parent / "3.csv", "ax,ay\n1,2\n3"), ("3.csv", "line 3")),
    "a word among numbers": (lambda m: write(m.parent / "3.csv", "ax,ay\n1,2\n3,up\n"), ("3.csv", "'up'", "line 3")),
    "NaN": (lambda m: write(m.parent / "3.csv", "ax,ay\n1,2\n3,nan\n"), ("3.csv, line 3, column 2 (ay)", "'nan'")),
    "infinity": (
        lambda m: write(m.parent / "3.csv", "ax,ay\n-inf,2\n3,1\n"),
        ("3.csv, line 2, column 1 (ax)", "'-inf'"),
    ),
    "too large for float32": (lambda m: write(m.parent / "3.csv", "ax,ay\n1e39,2\n3,1\n"), ("3.csv", "1e39")),
    "other channels": (lambda m: write(m.parent / "3.csv", "ax,ay,az\n1,2,3\n"), ("3.csv", "3 channels", "0.csv")),
    "an empty label": (lambda m: rewrite(m, 4, "3.csv,,A"), ("manifest.csv, line 5", "empty label")),
    "a column that is missing": (lambda m: write(m, "path,lable\n0.csv,x\n"), ("manifest.csv", "add label")),
    "no rows": (lambda m: keep(m, lambda _: False), ("manifest.csv names no recordings",)),
    "one recording": (lambda m: keep(m, lambda line: line.startswith("0.csv")), ("there is 1 recording",)),
    "one class": (lambda m: keep(m, lambda line: "slow" in line), ("are of the class 'slow'", "two classes")),
    "a class of the test part only": (
        lambda m: rewrite(m, 9, "8.csv,rare,C"),
        ("the class 'rare' is in the test part only",),
    ),
    "a recording named twice": (lambda m: rewrite(m, 4, "2.csv,fast,A"), ("line 5", "'2.csv' again")),
}


@pytest.mark.parametrize("case", RECORDINGS)
def test_fit_refuses_recordings_in_one_sentence(run, manifest, tmp_path, case) -> None:
    spoil, parts = RECORDINGS[case]
    tree = {
        "data": {"source": str(manifest), "split": {"test_groups": ["C"], "validation": 0}},
        "model": {"backbone": SMALL},
        "training": {"epochs": 1},
        "output": str(tmp_path / "run"),
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    if case in ("one recording", "one class"):
        tree["data"] = {"source": str(manifest)}
        config.write_text(yaml.safe_dump(tree))
    spoil(manifest)
    said = run("fit", config)
    assert said.code == 2
    assert all(part in said.err for part in parts), said.err
    assert said.err.rstrip("\n").count("\n") == 0
    assert said.out == ""
    assert not (tmp_path / "run").exists()


def wave(length: int) -> bytes:
    """A 16-bit mono WAV that says it holds `length` samples, and holds 4."""
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + 2 * length, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    return head + struct.pack("<4sI", b"data", 2 * length) + b"\0" * 8


FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "a pickle": ("x.npy", pickle.dumps({"x": 1}), ("x.npy",)),
    "a truncated array": ("x.npy", b"\x93NUMPY\x01\x00", ("x.npy",)),
    "a truncated WAV": ("x.wav", wave(400), ("x.wav",)),
    "not a WAV": ("x.wav", b"words", ("x.wav",)),
    "a foreign format": ("x.mat", b"words", ("x.mat", "'.mat'")),
    "binary as text": ("x.csv", b"\x00\xff\xfe1,2\n", ("x.csv",)),
    "wrong channels": ("x.csv", b"1,2,3\n", ("x.csv has 3 channels", "ax, ay")),
    "a damaged Parquet file": ("x.parquet", b"PAR1xxxx", ("x.parquet",)),
}


@pytest.mark.parametrize("case", FILES)
def test_predict_refuses_files_in_one_sentence(run, folder, tmp_path, case) -> None:
    name, content, parts = FILES[case]
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "answers.csv"
    said = run("predict", folder, tmp_path / name, "--csv", out)
    assert (said.code, said.out) == (2, "")
    assert all(part in said.err for part in parts), said.err
    assert said.err.count("\n") == 1
    assert not out.exists()


def test_another_sampling_rate_is_refused(run, folder, manifest) -> None:
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0] + ",sampling_rate", *(line + ",25" for line in lines[1:])]) + "\n")
    said = run("predict", folder, manifest)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"{manifest} is sampled at 25 Hz, but the model was trained at 50 Hz; resample the recordings, or stream them "
        "with longstate.Session(model, rate=2).\n"
    )


def spoil_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "truncated weights": (
        lambda f: spoil_weights(f, (f / "model.safetensors").read_bytes()[:-20]),
        "model.safetensors` is damaged, cut short or not a safetensors file",
    ),
    "a pickle as weights": (lambda f: spoil_weights(f, pickle.dumps([1])), "model.safetensors`"),
    "configuration cut short": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text()[:40]),
        "config.json` is not JSON",
    ),
    "a foreign configuration": (lambda f: (f / "config.json").write_text('{"model_type": "x"}'), "config.json` has"),
    "training facts cut short": (lambda f: (f / "training.json").write_text("{"), "training.json is not JSON"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("command", ["predict", "stream", "info"])
def test_a_damaged_model_is_refused_in_one_sentence(run, folder, tmp_path, case, command) -> None:
    spoil, message = MODELS[case]
    spoil(folder)
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    said = run(command, folder, *([tmp_path / "x.npy"] if command == "predict" else []), stdin=b"1,2\n")
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_weights_of_another_model_are_refused(run, folder, classifier, tmp_path) -> None:
    other = models.build(classifier.config)
    models.save(other, tmp_path / "other")
    spoil_weights(folder, (tmp_path / "other" / "model.safetensors").read_bytes())
    said = run("stream", folder, stdin=b"1,2\n")
    assert said.code == 2
    assert "is not the file that config.json was saved with" in said.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["fit", "nowhere.yaml"], ("No such file or directory (nowhere.yaml); check the path",)),
        (["fit", "nowhere.csv"], ("nowhere.csv is not a file",)),
        (["fit", "watch", "-s", "training.lrr=3"], ("command line: training.lrr: unknown key; did you mean lr?",)),
        (["fit", "watch", "-s", "lr"], ("-s lr has no form `dotted.path=value`",)),
        (
            ["fit", "watch", "--device", "cuda", "-s", "training.epochs=1"],
            ("`device` is 'cuda', but this machine has none",),
        ),
        (["fit", "package:none_such/x.csv"], ("the package 'none_such' is not installed here",)),
        (["stream", "nowhere"], ("`nowhere` does not exist",)),
    ],
)
def test_what_is_not_there(run, arguments, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(*arguments, *(["--quiet"] if arguments[0] == "fit" else []))
    assert (said.code, said.out) == (2, "")
    assert all(part in said.err for part in parts), said.err
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["standard-input"]


def test_a_disk_that_fills_while_answers_are_written(run, folder, manifest, tmp_path, monkeypatch) -> None:
    out = tmp_path / "answers.csv"
    out.write_text("what was there")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = run("predict", folder, manifest, "--csv", out)
    assert (said.code, said.out) == (2, "")
    assert f"`{out}` could not be written (No space left on device)" in said.err
    assert out.read_text() == "what was there"
    assert not list(tmp_path.glob(".answers*"))
