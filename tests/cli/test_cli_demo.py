import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from longstate.cli import live, watch
from longstate.cli.live import show_running
from longstate.data import read_watch
from longstate.diagnostics.plots import draw_confusion, draw_stream

PNG = b"\x89PNG"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own settings, but for a model of a few numbers and crops of two seconds."""
    monkeypatch.setitem(watch.MODEL, "backbone", {"d_model": 4, "n_layers": 1, "layer": {"d_state": 4}})
    monkeypatch.setitem(watch.TRAINING, "crop", 100)


def test_the_demo_trains_tests_streams_and_leaves_everything_behind(run, small, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    said = run("demo", "--output", output, "--epochs", 1)
    assert said.code == 0
    for part in (
        "people 9 and 10 stay unseen until the end",
        "People 9 and 10, whom the model never saw: accuracy ",
        "0.864, a random forest on summary statistics",
        "one sample after the other",
        "ms each (the watch sends one every 20 ms)",
        "The whole recording in parallel gives the same probabilities: they differ by ",
        f"longstate stream {output}/model --every 50 < {output}/recording.csv",
    ):
        assert part in said.out
    difference = float(said.out.partition("they differ by ")[2].split()[0])
    assert difference < 1e-4
    assert (output / "curves.png").read_bytes().startswith(PNG)
    assert (output / "stream.png").read_bytes().startswith(PNG)
    assert (output / "log.csv").read_text().count("\n") == 2
    facts = json.loads((output / "model" / "training.json").read_text())
    recordings = read_watch()
    groups = dict(zip(recordings.names, recordings.groups or (), strict=True))
    assert {groups[name] for name in facts["parts"]["test"]} == {"9", "10"}
    assert {groups[name] for name in facts["parts"]["train"]} == {str(person) for person in range(1, 9)}
    # what it says to try next works, and the recording that it wrote is exactly the one of the package
    judged = json.loads(run("evaluate", output / "model", "watch", "--split", "test", "--json").out)
    assert judged["accuracy"] == facts["test"]["accuracy"]
    streamed = run("stream", output / "model", "--every", 50, stdin=(output / "recording.csv").read_bytes())
    assert streamed.code == 0
    first = recordings.names.index(facts["parts"]["test"][0])
    written = np.loadtxt(output / "recording.csv", delimiter=",", skiprows=1).astype(np.float32)
    np.testing.assert_array_equal(written, recordings.x[first])
    assert run("demo", "--output", output, "--epochs", 1).code == 0


def test_the_demo_takes_no_folder_that_holds_something_else(run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    said = run("demo", "--output", tmp_path / "mine")
    assert (said.code, said.out) == (2, "")
    assert "is not empty and no earlier demo made it; choose another folder with --output" in said.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_without_the_recordings_the_pip_line_is_printed(run, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = run("demo", "--output", tmp_path / "demo")
    assert (said.code, said.out) == (2, "")
    assert "run `pip install --no-deps seglearn==1.2.5`" in said.err
    assert not (tmp_path / "demo").exists()


def answers() -> list[np.ndarray]:
    return [np.array([0.2, 0.8]) if step < 50 else np.array([0.9, 0.1]) for step in range(100)]


def test_where_no_terminal_is_a_few_plain_lines_tell_it(capsys) -> None:
    seen = show_running(iter(answers()), ("rest", "walk"), 100, 50.0)
    np.testing.assert_array_equal(seen, answers())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == live.LINES
    assert lines[0].split() == ["0.2", "s", "walk", "0.80", "################"]
    assert lines[-1].split()[:4] == ["2.0", "s", "rest", "0.90"]


def test_on_a_terminal_bars_move(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(live, "SECONDS", 0.3)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    begun = time.perf_counter()
    seen = show_running(iter(answers()), ("rest", "walk"), 100, None)
    assert len(seen) == 100
    assert time.perf_counter() - begun > 0.2
    out = capsys.readouterr().out
    assert "step   100" in out
    assert "0.90" in out
    assert "━" in out or "█" in out


def test_the_pictures(tmp_path: Path) -> None:
    rows = np.random.default_rng(0)
    probabilities, x = rows.dirichlet(np.ones(11), size=60), rows.normal(size=(60, 2))
    x[:, 1] = 3.0
    classes = tuple(f"class {number}" for number in range(11))
    for name, start in (("a.png", PNG), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        draw_stream(tmp_path / name, probabilities, x, classes=classes, channels=("x", "constant"), title="title")
        assert (tmp_path / name).read_bytes().startswith(start)
    draw_confusion(tmp_path / "c.png", np.array([[3, 0], [1, 0]]), classes=("a", "b"), title="title")
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)


def test_pictures_of_things_that_do_not_fit_or_without_matplotlib(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"`probabilities` has shape \(5, 2\) and `x` \(6, 3\), but \(length, 2\) and"):
        draw_stream(tmp_path / "a.png", np.zeros((5, 2)), np.zeros((6, 3)), classes=("a", "b"), channels=("x",))
    with pytest.raises(ValueError, match=r"`confusion` has shape \(2, 2\), but \(3, 3\) is needed for the 3 classes"):
        draw_confusion(tmp_path / "a.png", np.zeros((2, 2)), classes=("a", "b", "c"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"matplotlib is not installed; run `pip install 'longstate\[viz\]'`"):
        draw_confusion(tmp_path / "a.png", np.zeros((1, 1)), classes=("a",))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_reaches_what_it_promises(run, tmp_path: Path) -> None:
    begun = time.perf_counter()
    assert run("demo", "--output", tmp_path / "demo").code == 0
    seconds = time.perf_counter() - begun
    facts = json.loads((tmp_path / "demo" / "model" / "training.json").read_text())
    assert facts["test"]["accuracy"] >= 0.80
    assert seconds < 180
