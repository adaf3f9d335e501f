import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from longstate import models, training
from longstate.data import read
from longstate.models import (
    BackboneConfig,
    FeedForwardConfig,
    HyenaConfig,
    RegressorConfig,
    StepRegressorConfig,
    TaggerConfig,
)


@pytest.fixture
def expected(classifier, manifest) -> np.ndarray:
    return training.predict(classifier, read(manifest))


def test_each_recording_has_a_class_and_probabilities(run, folder, manifest, expected, tmp_path) -> None:
    out = tmp_path / "answers.csv"
    said = run("predict", folder, manifest, "--csv", out)
    assert (said.code, said.err) == (0, "")
    assert f"12 answers are in {out}." in said.out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["recording"] for row in rows] == [f"{number}.csv" for number in range(12)]
    assert [row["class"] for row in rows] == [("rest", "walk")[best] for best in expected.argmax(1)]
    np.testing.assert_allclose([[float(row["rest"]), float(row["walk"])] for row in rows], expected, atol=1e-6)


def test_files_and_folders_are_named_by_their_paths(run, folder, manifest, expected) -> None:
    place = manifest.parent
    said = run("predict", folder, place / "3.csv", place / "1.csv", "--json")
    answers = json.loads(said.out)
    assert [one["recording"] for one in answers] == [str(place / "3.csv"), str(place / "1.csv")]
    assert answers[0]["values"]["walk"] == pytest.approx(expected[3, 1], abs=1e-6)
    manifest.unlink()
    assert {one["recording"] for one in json.loads(run("predict", folder, place, "--json").out)} == {
        str(place / f"{number}.csv") for number in range(12)
    }


def test_a_tagger_answers_every_step_and_a_regressor_with_numbers(run, classifier, manifest, tmp_path) -> None:
    backbone, recording, out = classifier.config.backbone, manifest.parent / "0.csv", tmp_path / "answers.csv"
    models.save(models.build(TaggerConfig(d_input=2, classes=("a", "b"), backbone=backbone)), tmp_path / "tagger")
    assert "Shares of the steps" in run("predict", tmp_path / "tagger", recording, "--csv", out).out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["step"] for row in rows] == [str(step) for step in range(40)]
    assert {row["class"] for row in rows} <= {"a", "b"}
    models.save(models.build(RegressorConfig(d_input=2, targets=("kg",), backbone=backbone)), tmp_path / "regressor")
    (only,) = json.loads(run("predict", tmp_path / "regressor", recording, "--json").out)
    assert only["answer"] is None
    assert set(only["values"]) == {"kg"}
    models.save(models.build(StepRegressorConfig(d_input=2, targets=("m",), backbone=backbone)), tmp_path / "steps")
    said = run("predict", tmp_path / "steps", recording, "--csv", out).out
    values = [float(row["m"]) for row in csv.DictReader(out.read_text().splitlines())]
    assert len(values) == 40
    assert "Means over the steps" in said
    assert f"{np.mean(values):.4g}" in said


def test_columns_are_found_by_name_and_arrays_by_position(run, folder, tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    lines = [f"{number},{ay:.9g},{ax:.9g}" for number, (ax, ay) in enumerate(x.tolist())]
    (tmp_path / "b.csv").write_text("\n".join(["time,ay,ax", *lines]) + "\n")
    one, other = json.loads(run("predict", folder, tmp_path / "a.npy", tmp_path / "b.csv", "--json").out)
    assert one["values"] == pytest.approx(other["values"], abs=1e-6)


def test_evaluate_prints_tables_and_pure_json(run, folder, manifest, expected) -> None:
    labels = manifest.read_text().replace("slow", "rest").replace("fast", "walk")
    manifest.write_text(labels)
    truth = np.array([0, 1] * 6)
    said = run("evaluate", folder, manifest)
    assert "Confusion (rows: truth, columns: answer)" in said.out
    assert "By length" in said.out
    result = json.loads(run("evaluate", folder, manifest, "--json").out)
    assert result["accuracy"] == pytest.approx((expected.argmax(1) == truth).mean())
    assert result["split"] == "all"
    assert sum(map(sum, result["confusion"])) == 12
    assert sum(bucket["count"] for bucket in result["buckets"]) == 12


def test_evaluate_takes_the_test_part_where_the_source_names_one(run, folder, manifest) -> None:
    lines = manifest.read_text().replace("slow", "rest").replace("fast", "walk").splitlines()
    lines = [lines[0] + ",split", *(line + (",test" if line.endswith("C") else ",train") for line in lines[1:])]
    manifest.write_text("\n".join(lines) + "\n")
    result = json.loads(run("evaluate", folder, manifest, "--json").out)
    assert (result["split"], result["count"]) == ("test", 4)
    assert json.loads(run("evaluate", folder, manifest, "--split", "train", "--json").out)["count"] == 8
    said = run("evaluate", folder, manifest, "--split", "validation")
    assert said.code == 2
    assert "is known to belong to the validation part; add a column `split`" in said.err


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        ("evaluate", {}, "recordings are labelled fast, slow, but only rest, walk are known here"),
        ("predict", {"device": "tpu"}, "`device` is 'tpu', but one of auto, cpu, cuda, mps is needed"),
        ("predict", {"csv": "no/where.csv"}, "could not be written"),
        ("evaluate", {"split": "tests"}, "`--split` is 'tests', but one of all, train, validation, test is needed"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, folder, manifest, tmp_path, command, change, message) -> None:
    options = [text for name, value in change.items() for text in (f"--{name}", value)]
    if "split" in change:
        manifest.write_text(manifest.read_text().replace("slow", "rest").replace("fast", "walk"))
    said = run(command, folder, manifest, *options)
    assert said.code == 2
    assert message in said.err
    assert said.err.count("\n") == 1


def test_info_of_this_installation(run) -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == 1
    assert facts["extras"]["cli"]["typer"]
    said = run("info")
    assert "memory" in said.out
    assert "installed" in said.out


def test_info_shows_the_pip_line_of_what_is_missing(run, monkeypatch) -> None:
    monkeypatch.setattr("longstate.cli.info._version", lambda package: None if package == "matplotlib" else "1.0")
    said = run("info")
    assert "matplotlib missing" in said.out
    assert "pip install 'longstate[viz]'" in said.out


def test_info_of_a_model(run, folder: Path, classifier) -> None:
    facts = json.loads(run("info", folder, "--json").out)
    assert facts["outputs"] == ["rest", "walk"]
    assert facts["parameters"] == sum(parameter.numel() for parameter in classifier.parameters())
    # 4 features: of each 2 complex modes and a sum with what it lost to rounding, in float32; and the count of steps
    assert facts["stream_state_bytes"] == 4 * (2 * 2 + 2) * 4 + 8
    assert "stream state" in run("info", folder).out


def test_info_of_a_stack_of_different_layers(run, tmp_path) -> None:
    pattern = (HyenaConfig(filter_length=8), FeedForwardConfig(d_inner=8))
    config = TaggerConfig(d_input=2, classes=("a", "b"), backbone=BackboneConfig(4, 2, pattern=pattern))
    models.save(models.build(config), tmp_path / "model")
    facts = json.loads(run("info", tmp_path / "model", "--json").out)
    assert (facts["layers"], facts["d_state"]) == ("2 x hyena + feed_forward", None)
    assert "d state" not in run("info", tmp_path / "model").out
