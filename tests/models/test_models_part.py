"""A layer or a backbone kept by itself: the same numbers back, and no folder that says something else."""

import json
from pathlib import Path

import pytest
import torch

import longstate
from longstate import InputError
from longstate.layers import S4, S4D, TwoSided
from longstate.models import (
    BackboneConfig,
    BackbonePart,
    LayerPart,
    S4Config,
    S4DConfig,
    TaggerConfig,
    build,
    build_part,
    load,
    load_model,
    save,
    save_part,
)
from longstate.ops import lti_kernel

PARTS = [
    LayerPart(d_model=4, layer=S4Config(d_state=8, n_ssm=2, channels=2)),
    LayerPart(d_model=4, layer=S4DConfig(d_state=8, init="real", output="none")),
    LayerPart(d_model=4, layer=S4Config(d_state=8, output="linear"), two_sided=True),
    BackbonePart(backbone=BackboneConfig(4, 2, S4DConfig(d_state=4), "batch")),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", PARTS)
def test_a_loaded_part_gives_equal_numbers(config, dtype: torch.dtype, tmp_path: Path) -> None:
    part = build_part(config).to(dtype).eval()
    save_part(part, config, tmp_path / "part")
    loaded = load(tmp_path / "part")
    assert type(loaded) is type(part)
    assert not loaded.training
    assert all(parameter.requires_grad and parameter.dtype is dtype for parameter in loaded.parameters())
    x = torch.randn(2, 20, 4, dtype=dtype)
    assert torch.equal(loaded(x), part(x))


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    save_part(build_part(PARTS[0]), PARTS[0], tmp_path)
    entry = json.loads((tmp_path / "config.json").read_text())
    assert list(entry) == ["longstate", "part", "weights"]
    assert entry["part"]["kind"] == "layer"
    assert entry["part"]["layer"]["kind"] == "s4"


def test_a_model_takes_the_place_of_a_part_and_back(tmp_path: Path) -> None:
    config = TaggerConfig(d_input=1, classes=("a", "b"), backbone=BackboneConfig(4, 1))
    save_part(build_part(PARTS[1]), PARTS[1], tmp_path)
    save(build(config), tmp_path)
    assert load_model(tmp_path).config == config
    save_part(build_part(PARTS[1]), PARTS[1], tmp_path)
    assert type(load(tmp_path)) is S4D


def test_whoever_needs_a_model_is_told_that_it_is_a_part(tmp_path: Path) -> None:
    save_part(build_part(PARTS[0]), PARTS[0], tmp_path)
    with pytest.raises(InputError, match="holds a bare S4, but a model with an encoder and a head is needed; use"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("part", "config"),
    [
        (S4D(4, 8), PARTS[0]),
        (S4D(4, 8, init="lin"), LayerPart(d_model=4, layer=S4DConfig(d_state=4))),
        (S4D(4, 8), LayerPart(d_model=4, layer=S4DConfig(d_state=8, output="none"))),
    ],
)
def test_a_part_that_is_another_is_not_written(part, config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`part` is not the S4D? that `config` describes, but their tensors must"):
        save_part(part, config, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_part_that_is_not_known_is_refused_by_its_dotted_path(tmp_path: Path) -> None:
    save_part(build_part(PARTS[0]), PARTS[0], tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"kind": "s4"', '"kind": "s6"'))
    with pytest.raises(InputError, match=r"config.json` cannot be used: `layer.kind` is 's6', but one of s4d, s4"):
        longstate.load(tmp_path)


def test_only_s4_and_s4d_with_one_channel_are_two_sided() -> None:
    with pytest.raises(InputError, match=r"`two_sided` is asked of S4DConfig.*, but S4 or S4D with one channel"):
        LayerPart(d_model=4, layer=S4DConfig(channels=2), two_sided=True)


def test_two_sides_meet_in_one_output_and_count_the_present_once() -> None:
    forward, backward = S4(4, 8, output="none").double(), S4D(4, 8, output="none").double()
    y = TwoSided(forward, backward, output="none")(x := torch.randn(1, 20, 4, dtype=torch.float64))
    ahead = lti_kernel(backward.system(), 20, dtype=torch.float64)[0]
    expected = forward(x)[0, 3] + sum(ahead[:, j] * x[0, 4 + j] for j in range(16))
    assert (y[0, 3] - expected).abs().max() <= 1e-12
