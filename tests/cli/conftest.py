"""The command line as a test calls it: in this process, with what it prints and the code it exits with."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from longstate import models
from longstate.cli.entry import main
from longstate.models import BackboneConfig, ClassifierConfig, InputStatistics, S4DConfig

SMALL = BackboneConfig(d_model=4, n_layers=1, layer=S4DConfig(d_state=4), dropout=0.0)


class Said(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`run("stream", folder, stdin=b"1,2\\n")`: the command in this process; every exit is a SystemExit."""

    def command(*arguments: object, stdin: bytes = b"") -> Said:
        given = tmp_path / "standard-input"
        given.write_bytes(stdin)
        capfd.readouterr()
        with given.open() as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            with pytest.raises(SystemExit) as left:
                main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Said(left.value.code or 0, out, err)

    return command


@pytest.fixture
def classifier() -> models.SequenceClassifier:
    """Two channels in, two classes out."""
    config = ClassifierConfig(
        d_input=2,
        classes=("rest", "walk"),
        backbone=SMALL,
        channels=("ax", "ay"),
        statistics=InputStatistics((0.5, -1.0), (2.0, 3.0)),
        sampling_rate=50.0,
    )
    model = models.SequenceClassifier(config)
    torch.nn.init.normal_(model.head.weight, std=1.0)
    return model.eval()


@pytest.fixture
def folder(classifier: models.SequenceClassifier, tmp_path: Path) -> Path:
    """The classifier, saved."""
    models.save(classifier, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Twelve recordings of two channels: slow or fast oscillations by three people, in a CSV manifest."""
    random = np.random.default_rng(0)
    place = tmp_path / "recordings"
    place.mkdir()
    lines = ["path,label,group"]
    for number in range(12):
        label, person = ("slow", "fast")[number % 2], number // 4
        length = 40 + 3 * number
        phase = np.arange(length) * (0.2 if label == "slow" else 1.0) + random.uniform(0, 6)
        x = np.stack([np.sin(phase), np.cos(phase)], 1) + 0.05 * random.normal(size=(length, 2))
        np.savetxt(place / f"{number}.csv", x, delimiter=",", header="ax,ay", comments="", fmt="%.6f")
        lines.append(f"{number}.csv,{label},{'ABC'[person]}")
    (place / "manifest.csv").write_text("\n".join(lines) + "\n")
    return place / "manifest.csv"
