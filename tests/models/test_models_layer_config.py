"""Every layer has one configuration, which says the same as its constructor."""

import dataclasses
import inspect
import json
from typing import Any, get_args

import pytest

from longstate import InputError
from longstate.layers import Bidirectional
from longstate.models import (
    BackboneConfig,
    LayerConfig,
    S4DConfig,
    TaggerConfig,
    build_bidirectional,
    build_layer,
    config_from_dict,
    config_to_dict,
)
from longstate.models.build_layer import BIDIRECTIONAL, CAUSAL

CONFIGS = get_args(LayerConfig)
WIDTH = 64


def keywords(cls: type) -> dict[str, Any]:
    """The constructor's arguments after the width, with their defaults."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_a_configuration_says_what_the_constructor_says(config: type) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(config) if field.name != "kind"}
    assert fields == keywords(CAUSAL[config])
    if config in BIDIRECTIONAL:
        assert fields.items() <= keywords(BIDIRECTIONAL[config]).items()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_a_configuration_builds_its_layer_both_ways(config: type) -> None:
    layer = build_layer(config(), WIDTH)
    assert type(layer) is CAUSAL[config]
    assert layer.d_model == WIDTH
    assert type(build_bidirectional(config(), WIDTH)) is BIDIRECTIONAL.get(config, Bidirectional)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(InputError, match=r"configuration is a dict, but one of S4DConfig, .* is needed; choose one\."):
        build_layer({"kind": "s4d"}, 8)
    assert S4DConfig in CAUSAL


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_a_configuration_survives_json(config: type) -> None:
    whole = TaggerConfig(d_input=1, classes=("a",), backbone=BackboneConfig(pattern=(config(), S4DConfig())))
    assert config_from_dict(json.loads(json.dumps(config_to_dict(whole), allow_nan=False))) == whole
