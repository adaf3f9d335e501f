"""What a person sees."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from small_runs import classifier, halves, waves

from longstate.training import TrainingConfig, fit
from longstate.training import progress as display

CONFIG = TrainingConfig(epochs=2, batch_size=4, lr=0.02, device="cpu")


def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, terminal: bool, validate: bool = True) -> str:
    """What a run writes on standard error."""
    text, recordings = io.StringIO(), waves()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None, legacy_windows=False)
    monkeypatch.setattr(display, "Console", lambda stderr: console)
    monkeypatch.setattr(display, "REFRESH_SECONDS", 0.0)
    train, validation = halves(recordings)
    fit(classifier(recordings), train, validation if validate else None, CONFIG, tmp_path)
    return text.getvalue()


def test_a_file_gets_a_line_an_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = shown(monkeypatch, tmp_path, terminal=False).splitlines()
    assert len(lines) == 2
    log = (tmp_path / "log.csv").read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        loss, accuracy, val_loss, val_accuracy = (float(value) for value in log[number].split(",")[2:6])
        assert line.startswith(
            f"epoch {number}/2  loss {loss:.3f}  acc {accuracy:.3f}  val loss {val_loss:.3f}  "
            f"val acc {val_accuracy:.3f}  "
        )
        assert line.endswith(" samples/s")


def test_without_validation_nothing_is_said_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "val" not in shown(monkeypatch, tmp_path, terminal=False, validate=False)


def test_a_terminal_gets_one_line_that_moves_and_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = shown(monkeypatch, tmp_path, terminal=True)
    for part in ("epoch 1/2", "epoch 2/2", "loss 0.", "acc 0.", "best val acc 0.", " samples/s"):
        assert part in text
    assert text.endswith("\x1b[2K")  # the line is erased, and the cursor is shown again before
    assert "\x1b[?25h" in text
