import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from longstate import models, training
from longstate._checks import InputError
from longstate.cli.config import ModelSection, SplitSection
from longstate.cli.prepare import divide, locate, model_config
from longstate.data import from_arrays, read
from longstate.models import BackboneConfig

TINY = {
    "model": {"backbone": {"d_model": 4, "n_layers": 1, "dropout": 0.0, "layer": {"d_state": 4}}},
    "training": {"epochs": 2, "batch_size": 4, "lr": 0.02, "flip": ["ax"]},
}


@pytest.fixture
def config(manifest: Path, tmp_path: Path) -> Path:
    """A configuration for the manifest: group A validates, group B tests."""
    split = {"validation_groups": ["A"], "test_groups": ["B"]}
    tree = {**TINY, "data": {"source": str(manifest), "split": split}, "output": str(tmp_path / "run")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_fit_gives_a_model_that_knows_how_good_it_is(run, config, manifest, tmp_path) -> None:
    said = run("fit", config)
    assert said.code == 0
    assert "12 recordings, 40 to 73 steps, 2 channels, 2 classes): 4 train, 4 validation, 4 test" in said.err
    assert "epoch 2/2" in said.err
    assert "The test part: accuracy " in said.out
    folder = tmp_path / "run"
    assert f"longstate stream {folder / 'model'}" in said.out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((folder / "model" / "training.json").read_text())
    assert facts["parts"]["test"] == ["4.csv", "5.csv", "6.csv", "7.csv"]
    judged = json.loads(run("evaluate", folder, manifest, "--split", "test", "--json").out)
    assert judged["accuracy"] == facts["test"]["accuracy"]
    noted = run("evaluate", folder, manifest)
    assert noted.err == "4 of these 12 recordings trained the model; --split test leaves them out.\n"
    assert json.loads(run("info", folder, "--json").out)["test"] == facts["test"]
    assert run("stream", folder, stdin=b"ax,ay\n1,2\n").code == 0
    # a bare source with the same settings, given on the command line, trains the same model
    settings = ["-s", "data.split.validation_groups=[A]", "-s", "data.split.test_groups=[B]"]
    settings += ["-s", f"model={json.dumps(TINY['model'])}", "-s", f"training={json.dumps(TINY['training'])}"]
    assert run("fit", manifest, *settings, "--output", tmp_path / "other", "--quiet").err == ""
    ours, theirs = (models.load(place / "model").state_dict() for place in (folder, tmp_path / "other"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_statistics_come_from_the_training_part_alone(run, config, manifest, tmp_path) -> None:
    np.savetxt(manifest.parent / "4.csv", np.full((50, 2), 1e6), delimiter=",", header="ax,ay", comments="")
    assert run("fit", config, "--quiet", "-s", "training.epochs=1").code == 0
    statistics = models.load(tmp_path / "run" / "model").config.statistics
    assert statistics is not None
    assert max(statistics.scale) < 10


def test_a_run_is_not_overwritten_and_can_be_resumed(run, config, tmp_path) -> None:
    assert run("fit", config, "--quiet").code == 0
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    said = run("fit", config, "--quiet")
    assert said.code == 2
    assert f"{tmp_path / 'run'} holds a run" in said.err
    assert "--resume" in said.err
    assert run("fit", config, "--quiet", "--resume").code == 0
    said = run("fit", config, "--quiet", "--resume", "-s", "training.lr=0.01")
    assert said.code == 2
    assert "`training.lr` was 0.02 and is 0.01" in said.err
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before


def test_ctrl_c_says_how_to_go_on(run, config, tmp_path, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise training.Interrupted(tmp_path / "run", epoch=1, epochs=2, step=3)

    monkeypatch.setattr(training, "fit", stop)
    said = run("fit", config, "--quiet")
    assert (said.code, said.out) == (130, "")
    assert said.err == (
        "Stopped in epoch 1 of 2, and everything is saved: the same command with --resume continues exactly there.\n"
    )


def test_init_from_begins_with_the_weights_of_another(run, config, tmp_path) -> None:
    assert run("fit", config, "--quiet").code == 0
    options = ["--output", tmp_path / "second", "-s", "training.lr=1e-9", "-s", "training.epochs=1", "--quiet"]
    assert run("fit", config, *options, "--init-from", tmp_path / "run").code == 0
    first, second = (models.load(tmp_path / name / "model").state_dict() for name in ("run", "second"))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_show_prints_the_whole_configuration_and_does_nothing(run, config, tmp_path) -> None:
    said = run("fit", config, "--show", "--device", "cpu")
    tree = yaml.safe_load(said.out)
    assert tree["training"]["device"] == "cpu"
    assert tree["training"]["weight_decay"] == training.TrainingConfig().weight_decay
    assert not (tmp_path / "run").exists()
    assert yaml.safe_load(run("fit", "watch", "--show").out)["output"] == "runs/watch"
    shown = yaml.safe_load(run("fit", tmp_path / "recordings" / "manifest.csv", "--show").out)
    assert shown["output"] == "runs/recordings"


CANDIDATES = [{"name": "slow", "set": {"training.lr": 1e-6}}, {"name": "fast", "set": {"training.lr": 0.05}}]


def test_every_group_is_left_out_and_the_candidate_chosen_without_it(run, config, tmp_path) -> None:
    folder = tmp_path / "run"
    settings = ["-s", "data.split={validation: 0}", "-s", "training.epochs=1", "--quiet"]
    settings += ["-s", f"evaluation={{protocol: leave_one_group_out, candidates: {json.dumps(CANDIDATES)}}}"]
    said = run("fit", config, *settings)
    assert said.code == 0
    rows = list(csv.DictReader((folder / "folds.csv").read_text().splitlines()))
    assert [(row["group"], row["count"]) for row in rows] == [("A", "4"), ("B", "4"), ("C", "4")]
    content = json.loads((folder / "folds.json").read_text())
    assert content["mean"]["by_group"] == pytest.approx(np.mean([float(row["score"]) for row in rows]))
    assert f"mean by group {content['mean']['by_group']:.4f}" in said.out
    for fold in content["folds"]:
        scores = fold["candidates"]
        assert fold["candidate"] == max(scores, key=lambda name: scores[name])
    described = json.loads((folder / "folds" / "02-B" / "run" / "run.json").read_text())
    assert described["train"]["recordings"] == 8
    inner = json.loads((folder / "folds" / "02-B" / "choice" / "slow-1" / "run.json").read_text())
    assert inner["train"]["recordings"] == 4
    facts = json.loads((folder / "folds" / "02-B" / "run" / "model" / "training.json").read_text())
    assert facts["parts"]["test"] == ["4.csv", "5.csv", "6.csv", "7.csv"]
    # a finished fold is taken as it is; the one that is missing comes out the same again
    before = (folder / "folds.json").read_text()
    (folder / "folds" / "02-B" / "result.json").unlink()
    (folder / "folds.json").unlink()
    assert run("fit", config, *settings, "--resume").code == 0
    assert (folder / "folds.json").read_text() == before
    assert "holds a run already; continue it with --resume" in run("fit", config, *settings).err
    changed = run("fit", config, *settings, "--resume", "-s", "training.lr=0.03")
    assert changed.code == 2
    assert "was started with another configuration" in changed.err


def test_folds_need_groups_and_enough_of_them(run, config, manifest) -> None:
    settings = ["-s", "evaluation.protocol=leave_one_group_out", "-s", "data.split={validation: 0}", "--quiet"]
    candidates = f"evaluation={{protocol: leave_one_group_out, inner_folds: 3, candidates: {json.dumps(CANDIDATES)}}}"
    said = run("fit", config, "-s", candidates, *settings[2:])
    assert said.code == 2
    assert "`evaluation.inner_folds` is 3, but only 2 groups train when one is left out" in said.err
    said = run("fit", config, *settings, "--devices", 2)
    assert said.code == 2
    assert "`training.devices` is 2, but leave_one_group_out trains many small models" in said.err
    lines = [line.rpartition(",")[0] for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(lines) + "\n")
    said = run("fit", config, *settings)
    assert said.code == 2
    assert "but the recordings have no groups" in said.err


@pytest.mark.parametrize(
    ("name", "kind"),
    [("copying?length=3&tokens=2&vocabulary=4", "tagger"), ("delay?length=40&lag=5&band=0.2", "step_regressor")],
)
def test_a_synthetic_task_is_a_source_like_any_other(run, tmp_path, name, kind) -> None:
    source = f"task:{name}&train=12&validation=4&test=5"
    shown = yaml.safe_load(run("fit", source, "--show").out)
    assert (shown["model"]["kind"], shown["output"]) == (kind, f"runs/{name.partition('?')[0]}")
    small = ["model.backbone={d_model: 4, n_layers: 1, layer: {d_state: 4}}", "training.epochs=1"]
    settings = [part for setting in small for part in ("-s", setting)]
    said = run("fit", source, "--output", tmp_path / "run", "--quiet", *settings)
    assert said.code == 0
    answers = 10 if kind == "tagger" else 5 * 35
    assert f"{answers} answers" in said.out
    noted = run("evaluate", tmp_path / "run", source)
    assert (noted.code, noted.err) == (0, "")
    assert f"{answers} answers" in noted.out
    said = run("fit", source.replace("train=12", "train=many"), "--quiet")
    assert said.code == 2
    assert "has train=many, but a whole number from 0 is needed" in said.err


def test_named_groups_go_where_they_are_put(manifest) -> None:
    recordings = read(manifest)
    parts = divide(recordings, SplitSection(test_groups=("C",), validation=0.5))
    assert {(recordings.groups or ())[row] for row in parts.test} == {"C"}
    assert len(parts.train) == len(parts.validation) == 4


def test_a_model_of_numbers_knows_the_scale_of_its_targets() -> None:
    recordings = from_arrays([np.ones(4), np.zeros(4)], [[1.0], [5.0]], task="regression", targets=("kg",))
    config = model_config(ModelSection(kind="regressor", backbone=BackboneConfig(4, 1)), recordings, "none")
    assert models.config_to_dict(config)["target_statistics"] == {"shift": [3.0], "scale": [2.0]}
    assert config.statistics is None


def test_a_file_of_an_installed_package() -> None:
    place = Path(yaml.__file__).parent
    assert Path(locate("package:yaml/data/x.csv")) == place / "data" / "x.csv"
    assert locate("watch") == "watch"
    with pytest.raises(InputError, match="the package 'no_such_package' is not installed here; install it, or give"):
        locate("package:no_such_package/x.csv")
