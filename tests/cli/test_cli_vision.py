"""Image models at the command line: `longstate convert` reads them, `longstate info` describes them."""

import json
from pathlib import Path

import numpy as np
import torch

import longstate
from longstate import ImageClassifier
from longstate.models import MambaConfig, VimConfig

GOLDENS = Path(__file__).parents[1] / "goldens" / "vmamba.npz"


def test_a_vmamba_is_converted_and_described(run, tmp_path) -> None:
    with np.load(GOLDENS) as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files if key.startswith("model/tiny/")}
    prefix = "model/tiny/state_dict/"
    torch.save({key.removeprefix(prefix): value for key, value in arrays.items() if prefix in key}, tmp_path / "t.pth")
    said = run("convert", tmp_path / "t.pth", tmp_path / "out", "--names", "ant,bee,cat,dog,elk")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].endswith("MzeroMiko/VMamba: VMamba of widths 8, 16, 1, 1 blocks, d_state 1")
    assert "0.485" in said.out
    y = longstate.load(tmp_path / "out")(arrays["model/tiny/x"].movedim(1, -1))
    assert (y - arrays["model/tiny/y"]).abs().max() <= 1e-9 * y.abs().max()
    facts = json.loads(run("info", tmp_path / "out", "--json").out)
    assert (facts["kind"], facts["outputs"]) == ("vmamba", ["ant", "bee", "cat", "dog", "elk"])
    assert (facts["layers"], facts["d_model"], facts["stream_state_bytes"]) == ("1 + 1 blocks", 16, None)


def test_a_vim_is_described(run, tmp_path) -> None:
    config = VimConfig(
        classes=("a", "b"), image_size=(8, 12), patch_size=4, d_model=8, n_layers=2, layer=MambaConfig(d_state=4)
    )
    longstate.save(ImageClassifier(config), tmp_path / "vim")
    facts = json.loads(run("info", tmp_path / "vim", "--json").out)
    assert facts["inputs"] == ["3 channels", "images of 8 x 12"]
    assert (facts["layers"], facts["d_state"]) == ("2 blocks", 4)


def test_a_command_over_recordings_refuses_a_model_of_images(run, tmp_path) -> None:
    config = VimConfig(classes=("a", "b"), image_size=(8, 8), patch_size=4, d_model=8, n_layers=1)
    longstate.save(ImageClassifier(config), tmp_path / "vim")
    said = run("stream", tmp_path / "vim", stdin=b"1,2\n")
    assert said.code == 2
    assert "holds a model of images, but one over recordings is needed" in said.err
