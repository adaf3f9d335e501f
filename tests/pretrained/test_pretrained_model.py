"""Whole models of the official train.py: a longstate model with the same outputs, or a sentence why not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longstate import InputError, models, pretrained
from longstate.models import (
    Backbone,
    BackbonePart,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
)
from longstate.pretrained import Facts
from published import StateDict, sequence_model, state_dict


def write(weights: object, folder: Path) -> Path:
    torch.save(weights, folder / "model.ckpt")
    return folder / "model.ckpt"


def blocks(path: Path, count: int) -> list[torch.nn.Module]:
    """The blocks of a model, each read by itself; that they equal the official ones is another test's."""
    return [pretrained.load(path, layer=f"model.layers.{number}.layer").double() for number in range(count)]


def normalise(x: Tensor, weights: StateDict, place: str, kind: str) -> Tensor:
    inner = f"{place}norm.ln." if kind == "transposed" else f"{place}norm."
    weight, bias = weights[f"{inner}weight"].double(), weights[f"{inner}bias"].double()
    if kind != "batch":
        return F.layer_norm(x, (16,), weight, bias)
    mean, var = weights[f"{inner}running_mean"].double(), weights[f"{inner}running_var"].double()
    return F.batch_norm(x.mT, mean, var, weight, bias).mT


def by_hand(x: Tensor, weights: StateDict, path: Path, kind: str) -> Tensor:
    """Encoder, pre-norm residual blocks, norm, decoder: the logits of every step."""
    wide = {name: value.double() for name, value in weights.items()}
    h = F.linear(x, wide["encoder.0.weight"], wide["encoder.0.bias"])
    for number, block in enumerate(blocks(path, 2)):
        h = h + block(normalise(h, weights, f"model.layers.{number}.norm.", kind))
    h = normalise(h, weights, "model.norm.", kind)
    return F.linear(h, wide["decoder.0.output_transform.weight"], wide["decoder.0.output_transform.bias"])


@pytest.mark.parametrize("kind", ["layer", "transposed", "batch"])
def test_a_classifier_gives_the_logits_of_its_parts(kind: str, tmp_path: Path) -> None:
    weights = sequence_model(kind)
    path = write({"epoch": 3, "state_dict": weights, "optimizer_states": [{"state": {0: torch.ones(1)}}]}, tmp_path)
    converted = pretrained.convert(path)
    x = torch.randn(2, 60, 3, dtype=torch.float64)
    steps = by_hand(x, weights, path, kind).detach()
    assert isinstance(converted.model, SequenceClassifier)
    y = converted.model.double()(x).detach()
    assert (y - steps.mean(1)).abs().max() <= 1e-10 * y.abs().max()
    assert converted.model.config.classes == ("0", "1", "2", "3", "4")
    assert {used.name for used in converted.used} | {left.name for left in converted.left} == set(weights)
    assert {left.name.rpartition(".")[2] for left in converted.left} <= {"num_batches_tracked"}
    ours = converted.model.state_dict()
    assert {used.ours for used in converted.used} == set(ours)


def test_facts_choose_the_model_around_the_layers(tmp_path: Path) -> None:
    weights = sequence_model()
    path = write(weights, tmp_path)
    x = torch.randn(2, 60, 3, dtype=torch.float64)
    steps = by_hand(x, weights, path, "layer").detach()
    names = ("a", "b", "c", "d", "e")
    tagger = pretrained.convert(path, facts=Facts(task="tagger", names=names))
    assert isinstance(tagger.model, SequenceTagger)
    assert tagger.model.config.classes == names
    assert (tagger.model.double()(x) - steps).abs().max() <= 1e-10 * steps.abs().max()
    regressor = pretrained.convert(path, facts=Facts(task="regressor", names=names, pooling="last"))
    assert isinstance(regressor.model, SequenceRegressor)
    assert (regressor.model.double()(x) - steps[:, -1]).abs().max() <= 1e-10 * steps.abs().max()
    assert not any("(task)" in said or "(names)" in said or "(pooling)" in said for said in regressor.assumed)


def test_a_backbone_alone(tmp_path: Path) -> None:
    weights = {
        name.removeprefix("model."): value for name, value in sequence_model().items() if name.startswith("model.")
    }
    converted = pretrained.convert(write({"model": weights, "acc": 0.9}, tmp_path))
    assert isinstance(converted.model, Backbone)
    assert isinstance(converted.config, BackbonePart)
    whole = pretrained.load(write(sequence_model(), tmp_path))
    assert isinstance(whole, SequenceClassifier)
    assert converted.model.state_dict().keys() == whole.backbone.state_dict().keys()
    pretrained.save(converted, tmp_path / "out")
    x = torch.randn(1, 20, 16)
    assert torch.equal(models.load(tmp_path / "out")(x), converted.model(x))
    with pytest.raises(InputError, match=r"a task, names or a pooling were given, but .* has no decoder"):
        pretrained.load(write(weights, tmp_path), facts=Facts(pooling="last"))


def test_wrappers_are_seen_through(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = sequence_model()
    wrapped = {f"module._orig_mod.{name}": value for name, value in plain.items()}
    x = torch.randn(1, 20, 3)
    first = pretrained.load(write(plain, tmp_path))(x)
    assert torch.equal(pretrained.load(write({"state_dict": wrapped}, tmp_path))(x), first)


def changed(changes: StateDict, *without: str, n_layers: int = 2) -> StateDict:
    kept = {name: value for name, value in sequence_model(n_layers=n_layers).items() if not name.startswith(without)}
    return kept | changes


def both_ways() -> StateDict:
    weights = sequence_model()
    for number in range(2):
        weights[f"model.layers.{number}.layer.layer.kernel.C"] = torch.randn(2, 16, 32, 2)
    return weights


FEED_FORWARD = {"model.layers.1.layer.ff.0.weight": torch.ones(16, 16)}
SCALAR_NORM = {"model.norm.norm.m": torch.zeros(1), "model.norm.norm.s": torch.ones(1)}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (changed({}, "model.norm."), r"has no norm after its last layer, so it normalises after every residual"),
        (changed(SCALAR_NORM, "model.norm."), "normalises with one scale and one shift for all features"),
        (
            changed(FEED_FORWARD, "model.layers.1.", n_layers=3),
            "has convolutions only in the layers 0, 2, but a stack of",
        ),
        (both_ways(), r"reads both ways inside each convolution, but .* such as model.layers.0.layer.layer\."),
        (
            changed({}, "model.layers.0.layer.output_linear.", "model.layers.1.layer.output_linear."),
            "has no output maps, but longstate has this form for single layers only",
        ),
        (
            changed(
                {
                    "model.layers.1.layer.output_linear.0.weight": torch.ones(16, 16),
                    "model.layers.1.layer.output_linear.0.bias": torch.ones(16),
                }
            ),
            "has a layer 1 that is not like layer 0",
        ),
        (changed({}, "decoder."), "has an encoder and no decoder around its layers, but both or neither are needed"),
        (changed({}, "encoder."), "has a decoder and no encoder around its layers"),
        (changed({}, "encoder.0.bias"), r"has an encoder of shape \(16, 3\) that is no linear map with a bias"),
        (changed({}, "model.layers.1.norm.norm.bias"), "lacks model.layers.1.norm.norm.bias, but it is needed"),
        (changed({"loss.weight": torch.ones(3)}), r"holds loss.weight besides the tensors of state-spaces/s4, a Sequ"),
        (
            changed({"decoder.0.output_transform.bias": torch.ones(4)}),
            r"has decoder.0.output_transform.bias of shape \(4,\), which does not become head.bias of shape \(5,\)",
        ),
    ],
)
def test_what_longstate_has_not_is_one_sentence(weights: StateDict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pretrained.load(write(weights, tmp_path))
    assert "\n" not in str(caught.value)


def test_names_are_as_many_as_outputs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`names` are 2, but `.*` has 5 outputs; give one name for each"):
        pretrained.load(write(sequence_model(), tmp_path), facts=Facts(names=("a", "b")))


def test_one_layer_of_what_cannot_be_read_whole(tmp_path: Path) -> None:
    block = state_dict("block/s4_legs")
    weights = {f"center.{number}.layer.{name}": value for number in (0, 7) for name, value in block.items()}
    path = write(weights | {"up.weight": torch.ones(3)}, tmp_path)
    with pytest.raises(
        InputError, match=r"holds 2 layers \(center.0.layer.layer., center.7.layer.layer.\) in no model"
    ):
        pretrained.load(path)
    whole = pretrained.load(write(block, tmp_path))
    path = write(weights, tmp_path)
    assert torch.equal(pretrained.load(path, layer="center.7.layer.")(x := torch.randn(1, 9, 16)), whole(x))
    bare = pretrained.load(path, layer="center.7.layer.layer")
    assert isinstance(bare.output, torch.nn.Identity)
    with pytest.raises(InputError, match=r"has no tensor whose name begins with 'center.8.', but with center.0"):
        pretrained.load(path, layer="center.8")
