"""A run that is killed or stopped, and continued, ends as if nothing had happened."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed_runs import MOMENTS
from small_runs import RANDOM, classifier, halves, waves

from longstate._checks import InputError
from longstate.data import Recordings
from longstate.training import Interrupted, TrainingConfig, fit
from longstate.training.module import TrainingModule


def weights(folder: Path) -> bytes:
    return (folder / "model/model.safetensors").read_bytes()


def numbers(folder: Path) -> list[str]:
    """The log without the columns that a clock decides."""
    return [",".join(line.split(",")[:7]) for line in (folder / "log.csv").read_text().splitlines()]


def optimizer(folder: Path) -> list[torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    states = checkpoint["optimizer_states"][0]["state"]
    moments = [tensor for number in sorted(states) for tensor in states[number].values()]
    return [*moments, *checkpoint["state_dict"].values()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("killed_runs.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, folder], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_continues_bit_for_bit(killed: tuple[Path, dict[str, int]], moment: str) -> None:
    folder, report = killed
    assert (report["whole"], report[moment], report[f"{moment}, continued"]) == (0, signal.SIGKILL, 0)
    whole, continued = folder / "whole", folder / moment
    assert weights(continued) == weights(whole)
    assert numbers(continued) == numbers(whole)
    assert (continued / "result.json").read_text() == (whole / "result.json").read_text()
    pairs = zip(optimizer(continued), optimizer(whole), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not list(continued.rglob("*.tmp"))


def test_the_comparison_would_see_another_run(killed: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    folder, _ = killed
    recordings = waves()
    config = dataclasses.replace(RANDOM, seed=1)
    fit(classifier(recordings), *halves(recordings), config, tmp_path, progress=False)
    assert weights(tmp_path) != weights(folder / "whole")
    assert numbers(tmp_path) != numbers(folder / "whole")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, recordings = tmp_path_factory.mktemp("whole"), waves()
    fit(classifier(recordings), *halves(recordings), RANDOM, folder, progress=False)
    return folder


def signal_at(
    monkeypatch: pytest.MonkeyPatch, method: str, call: int, *, number: int = signal.SIGINT, times: int = 1
) -> None:
    """Let a method of the module raise a signal at one of its calls."""
    original, calls = getattr(TrainingModule, method), 0

    def patched(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            for _ in range(times):
                signal.raise_signal(number)
        return original(*args, **kwargs)

    monkeypatch.setattr(TrainingModule, method, patched)


@pytest.mark.parametrize(
    ("method", "call", "number", "epoch", "step"),
    [
        ("training_step", 2, signal.SIGINT, 1, 2),
        ("training_step", 7, signal.SIGTERM, 2, 7),
        ("training_step", 8, signal.SIGINT, 3, 8),  # the last step of an epoch: validation is done first
        ("validation_step", 1, signal.SIGINT, 2, 4),
    ],
)
def test_ctrl_c_keeps_every_step_and_says_how_to_go_on(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    call: int,
    number: int,
    epoch: int,
    step: int,
) -> None:
    recordings = waves()
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        signal_at(patch, method, call, number=number)
        with pytest.raises(Interrupted, match="continue with `resume=True`") as stop:
            fit(classifier(recordings), *halves(recordings), RANDOM, tmp_path, progress=False)
    assert str(stop.value).startswith(
        f"training was interrupted in epoch {epoch} of 3, and its first {step} steps are kept in {tmp_path};"
    )
    assert (stop.value.epoch, stop.value.step, stop.value.folder) == (epoch, step, tmp_path)
    assert isinstance(stop.value, KeyboardInterrupt)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    fit(classifier(recordings, seed=9), *halves(recordings), RANDOM, tmp_path, resume=True, progress=False)
    assert weights(tmp_path) == weights(whole)
    assert numbers(tmp_path) == numbers(whole)


def test_a_second_ctrl_c_does_not_wait(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = waves()
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        signal_at(patch, "training_step", 4, times=2)
        with pytest.raises(Interrupted, match="its first 2 steps are kept"):
            fit(classifier(recordings), *halves(recordings), RANDOM, tmp_path, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    fit(classifier(recordings), *halves(recordings), RANDOM, tmp_path, resume=True, progress=False)
    assert weights(tmp_path) == weights(whole)


def test_ctrl_c_in_the_last_epoch_ends_it(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = waves()
    signal_at(monkeypatch, "training_step", 12)
    result = fit(classifier(recordings), *halves(recordings), RANDOM, tmp_path, progress=False)
    assert result.epochs == 3
    assert weights(tmp_path) == weights(whole)


def test_patience_is_counted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = waves()
    # A rate too small to change a float32 weight: the first epoch stays the best.
    config = TrainingConfig(epochs=9, batch_size=4, lr=1e-12, weight_decay=0.0, patience=3, device="cpu")
    with monkeypatch.context() as patch:
        signal_at(patch, "training_step", 10)
        with pytest.raises(Interrupted, match="in epoch 3 of 9"):
            fit(classifier(recordings), *halves(recordings), config, tmp_path, progress=False)
    result = fit(classifier(recordings), *halves(recordings), config, tmp_path, resume=True, progress=False)
    assert (result.epochs, result.best_epoch, result.stopped_early) == (4, 1, True)


def test_a_finished_run_is_only_read(whole: Path) -> None:
    recordings, before = waves(), (whole / "checkpoints/last.ckpt").read_bytes()
    model = classifier(recordings, seed=9)
    result = fit(model, *halves(recordings), RANDOM, whole, resume=True, progress=False)
    assert (result.epochs, result.steps) == (3, 12)
    assert (whole / "checkpoints/last.ckpt").read_bytes() == before
    trained = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    if result.best_epoch == 3:
        assert torch.equal(model.head.weight, trained["model.head.weight"])


def test_a_run_that_is_not_the_same_is_not_continued(whole: Path) -> None:
    recordings = waves()
    train, validation = halves(recordings)
    model = classifier(recordings)

    def refused(text: str, *, model=model, train=train, validation=validation, config=RANDOM) -> None:
        with pytest.raises(InputError, match=f"cannot be continued: {text}, but a resumed run must be what it was"):
            fit(model, train, validation, config, whole, resume=True, progress=False)

    refused("`training.lr` was 0.02 and is 0.03", config=dataclasses.replace(RANDOM, lr=0.03))
    refused("`training.epochs` was 3 and is 4", config=dataclasses.replace(RANDOM, epochs=4))
    refused("`train.recordings` was 14 and is 13", train=train.select(range(13)))
    refused("the values of the train recordings are not those it was started with", train=changed(train))
    refused("the labels of the train recordings are not those it was started with", train=relabelled(train))
    refused("`validation` was given and is not now", validation=None)
    other = dataclasses.replace(model.config.backbone, dropout=0.5)
    refused("`model.backbone.dropout` was 0.2 and is 0.5", model=classifier(recordings, backbone=other))


def changed(recordings: Recordings) -> Recordings:
    first = recordings.x[0].copy()
    first[-1] += 1e-3
    return dataclasses.replace(recordings, x=(first, *recordings.x[1:]))


def relabelled(recordings: Recordings) -> Recordings:
    y = recordings.y.copy()
    y[0] = 1 - y[0]
    return dataclasses.replace(recordings, y=y)


class Trap:
    """A pickle that would do something."""

    def __reduce__(self):
        return os.system, ("echo opened",)


@pytest.mark.parametrize("content", [pickle.dumps(Trap()), b"", b"PK\x03\x04 cut short", None])
def test_a_checkpoint_that_is_not_ours_is_not_opened(
    tmp_path: Path, whole: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    recordings = waves()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "run.json").write_bytes((whole / "run.json").read_bytes())
    if content is None:
        torch.save({"state_dict": Trap()}, tmp_path / "checkpoints/last.ckpt")
    else:
        (tmp_path / "checkpoints/last.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"last\.ckpt is not a checkpoint of a run \(.*\), but one is needed"):
        fit(classifier(recordings), *halves(recordings), RANDOM, tmp_path, resume=True, progress=False)
    assert "opened" not in capfd.readouterr().out


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    recordings = waves()
    with pytest.raises(InputError, match="holds no checkpoint to continue from, but `resume` needs one"):
        fit(classifier(recordings), recordings, None, RANDOM, tmp_path, resume=True, progress=False)


def test_a_description_that_is_damaged_is_refused(tmp_path: Path) -> None:
    recordings = waves()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is not JSON .*, but the description of the run is needed"):
        fit(classifier(recordings), recordings, None, RANDOM, tmp_path, resume=True, progress=False)
