from pathlib import Path

import pytest
import torch
from small_runs import SMALL, classifier, waves

from longstate import models
from longstate._checks import InputError
from longstate.models import BackboneConfig, ClassifierConfig, RegressorConfig, build
from longstate.training import initialise_from


def of(classes: tuple[str, ...], *, seed: int, d_input: int = 1, backbone: BackboneConfig = SMALL) -> models.Model:
    torch.manual_seed(seed)
    return build(ClassifierConfig(d_input=d_input, classes=classes, backbone=backbone))


def test_everything_is_taken_from_a_model_of_the_same_kind(tmp_path: Path) -> None:
    old, new = classifier(waves(4), seed=1), classifier(waves(4), seed=2)
    models.save(old, tmp_path)
    found = initialise_from(new, tmp_path)
    assert found.left == found.not_used == ()
    assert set(found.used) == new.state_dict().keys()
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in old.state_dict().items())


@pytest.mark.parametrize("classes", [("a", "b", "c"), ("b", "a"), ("x", "y")])
def test_a_head_for_other_classes_stays_as_it_was(tmp_path: Path, classes: tuple[str, ...]) -> None:
    old, new = of(("a", "b"), seed=1), of(classes, seed=2)
    head = new.head.weight.clone()
    models.save(old, tmp_path)
    found = initialise_from(new, tmp_path)
    assert found.left == found.not_used == ("head.weight", "head.bias")
    assert torch.equal(new.head.weight, head)
    assert torch.equal(new.encoder.linear.weight, old.encoder.linear.weight)


def test_an_input_of_other_channels_stays_as_it_was(tmp_path: Path) -> None:
    old, new = of(("a", "b"), seed=1), of(("a", "b"), seed=2, d_input=3)
    models.save(old, tmp_path / "model")
    found = initialise_from(new, tmp_path)  # a run, with its model inside
    assert found.left == found.not_used == ("encoder.linear.weight",)


def test_a_model_of_another_kind_gives_its_backbone(tmp_path: Path) -> None:
    models.save(build(RegressorConfig(d_input=1, targets=("mass",), backbone=SMALL)), tmp_path)
    found = initialise_from(of(("a", "b"), seed=2), tmp_path)
    assert found.left == ("head.weight", "head.bias")
    assert found.not_used == ("head.linear.weight", "head.linear.bias")


def test_nothing_that_fits_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    new = of(("a", "b"), seed=2)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    models.save(of(("a", "b"), seed=1, backbone=BackboneConfig(8, 1, SMALL.layer)), tmp_path)
    with pytest.raises(InputError, match=r"no tensor of the backbone in .* fits this model \(there .*d_model=8"):
        initialise_from(new, tmp_path)
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no model\.safetensors, but a saved model is needed"):
        initialise_from(of(("a", "b"), seed=2), tmp_path)
