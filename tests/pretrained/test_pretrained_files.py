"""Checkpoints of every format: the tensors they hold, and nothing of theirs run."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from longstate import InputError, pretrained
from longstate.pretrained import open_checkpoint

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1, 2]), "b": torch.ones(4).bfloat16()}


class Program:
    """What a malicious pickle holds: opening it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def assert_holds_the_weights(checkpoint: pretrained.Checkpoint) -> None:
    assert set(checkpoint.names) == set(WEIGHTS)
    for name, wanted in WEIGHTS.items():
        assert checkpoint.shape(name) == tuple(wanted.shape)
        found = checkpoint.take(name, becomes=name)
        assert found.dtype is wanted.dtype
        assert torch.equal(found, wanted)
    assert checkpoint.forgotten == ()


@pytest.mark.parametrize("ending", ["pt", "pth", "ckpt", "bin", "safetensors"])
def test_every_format_holds_the_same_tensors(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    if ending == "safetensors":
        safetensors.torch.save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path)
    assert_holds_the_weights(open_checkpoint(str(path)))


def test_the_older_format_of_torch(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert_holds_the_weights(open_checkpoint(tmp_path / "x.pt"))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": WEIGHTS, "model": {"other": torch.ones(1)}, "epoch": 3},
        {"model": WEIGHTS, "acc": 0.9, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}},
        {"weights": WEIGHTS, "epoch": 1},
        {f"module.{name}": value for name, value in WEIGHTS.items()},
        {f"_orig_mod.module.{name}": value for name, value in WEIGHTS.items()},
    ],
)
def test_a_state_dict_is_found_inside(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    assert_holds_the_weights(open_checkpoint(tmp_path / "x.ckpt"))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_and_folders(kind: str, tmp_path: Path) -> None:
    stem = "model" if kind == "safetensors" else "pytorch_model"
    parts = {f"{stem}-1.{kind}": ["a.weight", "b"], f"{stem}-2.{kind}": ["a.bias"]}
    for file, names in parts.items():
        part = {name: WEIGHTS[name] for name in names}
        if kind == "safetensors":
            safetensors.torch.save_file(part, tmp_path / file)
        else:
            torch.save(part, tmp_path / file)
    index = tmp_path / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, names in parts.items() for name in names}}))
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert_holds_the_weights(open_checkpoint(index))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == {"model_type": "mamba"}
    assert_holds_the_weights(checkpoint)


@pytest.mark.parametrize("way", ["new", "old", "bare", "bare2", "inside"])
def test_a_program_in_a_pickle_is_never_run(way: str, tmp_path: Path) -> None:
    program, path = Program(tmp_path / "was-run"), tmp_path / "x.pt"
    if way in ("new", "old"):
        torch.save({"a": torch.ones(1), "b": program}, path, _use_new_zipfile_serialization=way == "new")
    elif way == "inside":
        torch.save({"state_dict": WEIGHTS, "hyper_parameters": program}, path)
    else:
        path.write_bytes(pickle.dumps(program, protocol=2 if way == "bare2" else 5))
    for reader in (open_checkpoint, pretrained.load):
        with pytest.raises(
            InputError, match="was not opened, but tensors alone are needed; where it was made"
        ) as caught:
            reader(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "was-run").exists()
    pickle.loads(pickle.dumps(program))  # the test itself can fail: this is what an unsafe reader would do
    assert (tmp_path / "was-run").exists()


def test_the_program_is_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(
        InputError, match=r"holds `torch.nn.modules.linear.Linear` as a pickle, which can run any progr"
    ):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 60, -40])
def test_a_file_that_was_cut_is_one_sentence(ending: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    if ending == "safetensors":
        safetensors.torch.save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"is damaged, cut short or not a file of .*; copy it again") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds a dict, but a state dict is needed, which maps names to tensors; save"),
        ([torch.ones(1)], "holds a list, but a state dict is needed"),
        ({"a": torch.ones(1), "b": 3}, "has a int under 'b', but a state dict holds tensors"),
        ({"ema": {"a": torch.ones(1)}, "net": {"a": torch.ones(1)}}, "holds the state dicts ema, net, but one is"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path / "x.pt")


def test_places_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.pt` does not exist, but a checkpoint is needed; check the path"):
        open_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match=r"is a folder without model.safetensors.index.json or .*, but a checkpoint"):
        open_checkpoint(tmp_path)
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"ends in .h5, but .safetensors, .pt, .pth, .ckpt, .bin or .index.json is nee"
    ):
        open_checkpoint(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is damaged, cut short or not a file of JSON with a weight_map"),
        ("[]", "is damaged, cut short or not a file of JSON with a weight_map"),
        ('{"weight_map": {"a": "../x.pt"}}', r"names the shard '../x.pt', but a file beside it is needed"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "lacks the shard gone.safetensors, which .* names; copy it too"),
        ('{"weight_map": {"c": "x.pt"}}', "places c in shards that do not hold them"),
    ],
)
def test_an_index_that_misleads_is_refused(index: str, message: str, tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.pt")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


def test_a_tensor_is_taken_once(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    checkpoint.take("b", becomes="B")
    with pytest.raises(InputError, match=r"b of `.*` was asked for as C, but it already became B, and every tensor is"):
        checkpoint.take("b", becomes="C")
    checkpoint.leave("a.bias", "counts")
    assert checkpoint.forgotten == ("a.weight",)
    with pytest.raises(
        InputError, match=r"holds a.weight besides the tensors of x, but what they do there is not known"
    ):
        checkpoint.check_all_used("x")
