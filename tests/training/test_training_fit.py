"""One run: its files, its numbers, what it refuses."""

import csv
import dataclasses
import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import SMALL, classifier, halves, waves

from longstate import models
from longstate._checks import InputError
from longstate.data import Loader, Recordings, from_arrays
from longstate.models import (
    BidirectionalClassifierConfig,
    Model,
    RegressorConfig,
    StepRegressorConfig,
    TaggerConfig,
    TargetStatistics,
    build,
)
from longstate.training import (
    ClassificationEvaluation,
    RegressionEvaluation,
    TrainingConfig,
    evaluate,
    fit,
    parameter_groups,
    schedule,
)
from longstate.training.module import TrainingModule
from longstate.training.run_module import step_seed

QUICK = TrainingConfig(epochs=2, batch_size=4, lr=0.02, device="cpu")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(one: Model, other: Model) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.fixture(scope="module")
def recordings() -> Recordings:
    return waves()


def test_a_run_leaves_its_model_its_log_its_curves_and_its_description(recordings: Recordings, tmp_path: Path) -> None:
    model = classifier(recordings)
    train, validation = halves(recordings)
    result = fit(model, train, validation, QUICK, tmp_path / "run", progress=False)
    written = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert written == {
        "checkpoints/last.ckpt",
        "curves.png",
        "log.csv",
        "model/config.json",
        "model/model.safetensors",
        "run.json",
    }
    rows = rows_of(tmp_path / "run")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8")]
    assert float(rows[1]["lr"]) == pytest.approx(0.02 * schedule(7, 8, warmup=0.1, final_lr=0.01), rel=1e-5)
    assert all(float(row["samples_per_second"]) > 0 and float(row["seconds"]) > 0 for row in rows)
    assert (result.epochs, result.steps, result.stopped_early, result.notices) == (2, 8, False, ())
    best = rows[result.best_epoch - 1]
    assert {name: f"{value:.6g}" for name, value in result.metrics.items()} == best
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert described["training"] == json.loads(json.dumps(dataclasses.asdict(QUICK)))
    assert described["train"]["recordings"] == 14


def test_the_model_ends_as_that_of_the_best_epoch(recordings: Recordings, tmp_path: Path) -> None:
    model = classifier(recordings)
    train, validation = halves(recordings)
    result = fit(model, train, validation, QUICK, tmp_path, progress=False)
    assert not model.training
    assert same(model, models.load(tmp_path / "model"))
    found = evaluate(model, validation)
    assert isinstance(found, ClassificationEvaluation)
    assert found.loss == pytest.approx(result.metrics["val_loss"], rel=1e-5)
    assert found.accuracy == pytest.approx(result.metrics["val_accuracy"])


def test_a_run_is_the_loop_that_a_reader_would_write(recordings: Recordings, tmp_path: Path) -> None:
    train, _ = halves(recordings)
    config = dataclasses.replace(QUICK, epochs=2, gradient_clip=0.5, weight_decay=0.3)
    model = classifier(recordings)
    fit(model, train, None, config, tmp_path, progress=False)

    by_hand = classifier(recordings).train()
    optimizer = torch.optim.AdamW(parameter_groups(by_hand, config.lr, config.weight_decay))
    loader, step = Loader(train, config.batch_size, seed=config.seed), 0
    for _ in range(config.epochs):
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * schedule(step, 8, warmup=config.warmup, final_lr=config.final_lr)
            torch.manual_seed(step_seed(config.seed, step, 0))
            loss = torch.nn.functional.cross_entropy(by_hand(batch.x, lengths=batch.lengths), batch.y)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
            optimizer.step()
            step += 1
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_without_validation_the_last_epoch_is_kept(recordings: Recordings, tmp_path: Path) -> None:
    model = classifier(recordings)
    result = fit(model, recordings, None, QUICK, tmp_path, progress=False)
    assert result.best_epoch == 2
    assert result.metrics.keys() == {
        "epoch",
        "step",
        "train_loss",
        "train_accuracy",
        "lr",
        "seconds",
        "samples_per_second",
    }
    assert {row["val_loss"] for row in rows_of(tmp_path)} == {""}
    assert torch.equal(
        torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["model.head.weight"],
        model.head.weight,
    )


def test_patience_ends_a_run_that_does_not_improve(recordings: Recordings, tmp_path: Path) -> None:
    # A rate too small to change a float32 weight: the first epoch stays the best.
    config = TrainingConfig(epochs=9, batch_size=8, lr=1e-12, weight_decay=0.0, patience=2, device="cpu")
    result = fit(classifier(recordings), *halves(recordings), config, tmp_path, progress=False)
    assert (result.epochs, result.best_epoch, result.stopped_early) == (3, 1, True)
    again = fit(classifier(recordings, seed=5), *halves(recordings), config, tmp_path, resume=True, progress=False)
    assert again == result


@pytest.mark.parametrize("monitor", ["accuracy", "loss"])
def test_the_best_epoch_is_the_one_that_is_asked_for(recordings: Recordings, tmp_path: Path, monitor: str) -> None:
    config = dataclasses.replace(QUICK, epochs=6, lr=0.1, monitor=monitor)
    result = fit(classifier(recordings), *halves(recordings), config, tmp_path, progress=False)
    rows = rows_of(tmp_path)
    order = {"accuracy": lambda row: (-float(row["val_accuracy"]), float(row["val_loss"]))}
    best = min(rows, key=order.get(monitor, lambda row: float(row["val_loss"])))
    assert result.best_epoch == int(best["epoch"])


def test_every_kind_of_model_trains(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [random.normal(size=(int(length), 2)) for length in random.integers(6, 12, size=8)]
    steps = [np.where(row[:, 0] > 0, "up", "down") for row in rows]
    tagged = from_arrays(rows, steps, task="tagging")
    measured = from_arrays(rows, [[row.mean() * 9 + 100] for row in rows], task="regression", targets=("mean",))
    named = from_arrays(rows, ["up" if row.mean() > 0 else "down" for row in rows])
    targets = TargetStatistics((float(measured.y.mean()),), (float(measured.y.std()),))
    config = dataclasses.replace(QUICK, epochs=3, lr=0.05, batch_size=3)
    for name, recordings, model in (
        ("tagger", tagged, build(TaggerConfig(d_input=2, classes=tagged.classes, backbone=SMALL))),
        (
            "regressor",
            measured,
            build(RegressorConfig(d_input=2, targets=("mean",), target_statistics=targets, backbone=SMALL)),
        ),
        (
            "step regressor",
            from_arrays(rows, [row.sum(1).cumsum() for row in rows], task="step_regression"),
            build(StepRegressorConfig(d_input=2, targets=("target",), backbone=SMALL)),
        ),
        ("both ways", named, build(BidirectionalClassifierConfig(d_input=2, classes=named.classes, backbone=SMALL))),
    ):
        result = fit(model, recordings, recordings, config, tmp_path / name, progress=False)
        losses = [float(row["train_loss"]) for row in rows_of(tmp_path / name)]
        assert losses[-1] < losses[0], name
        found = evaluate(model, recordings)
        if isinstance(found, RegressionEvaluation):
            assert "val_accuracy" not in result.metrics
        else:
            assert found.accuracy == pytest.approx(result.metrics["val_accuracy"]), name
        assert found.loss == pytest.approx(result.metrics["val_loss"], rel=1e-4), name


def test_bfloat16_products_come_close_to_float32(recordings: Recordings, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(QUICK, precision=precision)
        model = classifier(recordings)
        fit(model, recordings, None, config, tmp_path / precision, progress=False)
        losses[precision] = float(rows_of(tmp_path / precision)[-1]["train_loss"])
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


@pytest.mark.parametrize("option", ["noise", "scale", "rate", "crop", "label_smoothing", "class_weights"])
def test_every_option_changes_the_run_and_the_seed_repeats_it(
    recordings: Recordings, tmp_path: Path, option: str
) -> None:
    value = {"crop": 8, "class_weights": "balanced"}.get(option, 0.3)
    train = recordings.select([0, 1, 2, 3, 4, 6, 8])  # unequal counts, for class_weights
    config = dataclasses.replace(QUICK, epochs=1)
    changed = dataclasses.replace(config, **{option: value})
    found = []
    for number, each in enumerate((config, changed, changed)):
        found.append(classifier(recordings))
        fit(found[-1], train, None, each, tmp_path / str(number), progress=False)
    assert not same(found[0], found[1])
    assert same(found[1], found[2])


def test_the_random_state_of_the_caller_stays_and_does_not_matter(recordings: Recordings, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, epochs=1, noise=0.1)
    found = []
    for seed in (1, 2):
        model = classifier(recordings)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        fit(model, recordings, None, config, tmp_path / str(seed), progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(model)
    assert same(*found)


def test_nothing_is_printed_or_logged(
    recordings: Recordings, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    levels = {name: logging.getLogger(name).level for name in ("lightning", "lightning.pytorch")}
    fit(classifier(recordings), recordings, None, dataclasses.replace(QUICK, epochs=1), tmp_path, progress=False)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert {name: logging.getLogger(name).level for name in levels} == levels


def test_a_folder_that_is_taken_is_refused(recordings: Recordings, tmp_path: Path) -> None:
    fit(classifier(recordings), recordings, None, dataclasses.replace(QUICK, epochs=1), tmp_path, progress=False)
    with pytest.raises(InputError, match="holds a run or a model already, but a new run needs its own folder"):
        fit(classifier(recordings), recordings, None, QUICK, tmp_path, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is not a folder, but a folder is needed"):
        fit(classifier(recordings), recordings, None, QUICK, tmp_path / "file", progress=False)


def test_a_loss_that_is_not_finite_ends_the_run(recordings: Recordings, tmp_path: Path) -> None:
    model = classifier(recordings)
    with torch.no_grad():
        model.head.weight.fill_(float("inf"))
    with pytest.raises(InputError, match=r"training loss became nan in epoch 1, but a finite one .* lower `lr` \(now"):
        fit(model, recordings, None, QUICK, tmp_path, progress=False)


def test_devices_that_are_not_here_are_refused(recordings: Recordings, tmp_path: Path) -> None:
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(InputError, match=f"`device` is '{absent}', but this machine has .*cpu"):
        fit(classifier(recordings), recordings, None, dataclasses.replace(QUICK, device=absent), tmp_path / "a")
    with pytest.raises(InputError, match="`batch_size` is 4 for 3 devices, but each must take an equal share"):
        fit(classifier(recordings), recordings, None, dataclasses.replace(QUICK, devices=3), tmp_path / "b")


def test_missing_packages_are_named_with_the_line_that_brings_them(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, absent = importlib.util.find_spec, {"matplotlib"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    one = dataclasses.replace(QUICK, epochs=1)
    result = fit(classifier(recordings), recordings, None, one, tmp_path / "a", progress=False)
    assert result.notices == (
        "curves.png was not drawn, as matplotlib is not installed; run `pip install 'longstate[viz]'`.",
    )
    absent.add("lightning")
    with pytest.raises(InputError, match=r"lightning is not installed, .*; run `pip install 'longstate\[train\]'`"):
        fit(classifier(recordings), recordings, None, one, tmp_path / "b", progress=False)


def test_predicting_and_configuring_load_no_optional_package() -> None:
    code = (
        "import sys, longstate.training as t; t.TrainingConfig(); t.predict; t.evaluate; t.fit\n"
        "print([name for name in ('lightning', 'rich', 'matplotlib', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_step_seed_is_different_for_every_step_rank_and_seed() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(50) for rank in range(4)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_module_shares_the_work_only_within_a_trainer(recordings: Recordings) -> None:
    from longstate.training.standing import Standing

    only = dataclasses.replace(recordings, y=np.zeros(len(recordings), dtype=np.int64), classes=("square",))
    with pytest.raises(InputError, match="labelled square, but the model knows"):
        TrainingModule(classifier(recordings), only, None, QUICK, Standing())
