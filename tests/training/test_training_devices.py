"""Two processes train as one would, stop together and go on together."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import classifier, halves, waves
from two_processes import BACKBONE, ONE

from longstate import models
from longstate.training import fit

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two processes: a Ctrl-C that only the second sees after three steps, then continued to its end."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for action in ("stop", "continue"):
        done = subprocess.run(
            [sys.executable, SCRIPT, folder, action],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert done.stdout == ""
    return folder


def reports(folder: Path, action: str) -> list[dict]:
    return [json.loads((folder / f"{action}_{rank}.json").read_text()) for rank in (0, 1)]


def test_both_stop_at_the_same_step(folder: Path) -> None:
    stopped = reports(folder, "stop")
    assert [len(report["seen"]) for report in stopped] == [3, 3]
    assert all("interrupted in epoch 1 of 2, and its first 3 steps" in report["outcome"] for report in stopped)
    assert [report["main"] for report in stopped] == [True, False]


def test_parameters_are_equal_in_both(folder: Path) -> None:
    first, second = reports(folder, "continue")
    assert len(first["digests"]) == 2
    assert first["digests"] == second["digests"]


def test_every_recording_is_seen_once_an_epoch(folder: Path) -> None:
    train, _ = halves(waves(23))
    expected = sorted(round(float(row[0, 0]), 5) for row in train.x)
    everything = [
        entry for action in ("stop", "continue") for report in reports(folder, action) for entry in report["seen"]
    ]
    for epoch in (0, 1):
        assert sorted(row for step, *rows in everything if step // 4 == epoch for row in rows) == pytest.approx(
            expected
        )


def test_the_numbers_are_those_of_one_process(folder: Path, tmp_path: Path) -> None:
    recordings = waves(23)  # nine to validate with: one process has one more than the other
    model = classifier(recordings, backbone=BACKBONE)
    fit(model, *halves(recordings), ONE, tmp_path, progress=False)
    logs = []
    for path in (folder, tmp_path):
        with (path / "log.csv").open(newline="") as file:
            logs.append([[float(value) for value in list(row.values())[:7]] for row in csv.DictReader(file)])
    for two, one in zip(*logs, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    together = models.load(folder / "model").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
