"""Configurations: what they refuse, and their way through dictionaries and pydantic."""

import copy
import json
import math
from typing import Annotated, Any

import pydantic
import pytest

from longstate import InputError
from longstate.models import (
    Backbone,
    BackboneConfig,
    BidirectionalClassifier,
    BidirectionalClassifierConfig,
    ClassifierConfig,
    InputStatistics,
    ModelConfig,
    RegressorConfig,
    S4Config,
    S4DConfig,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    TaggerConfig,
    TargetStatistics,
    build,
    build_layer,
    config_from_dict,
    config_to_dict,
)

SMALL = BackboneConfig(d_model=4, n_layers=1, layer=S4DConfig(d_state=4))
FULL = ClassifierConfig(
    d_input=2,
    classes=("rest", "gehen"),
    backbone=BackboneConfig(8, 2, S4Config(init="legt", b_clip=2.0, n_ssm=2), "batch", 0.25),
    pooling="last",
    statistics=InputStatistics((0.5, -1.0), (2.0, 3.0)),
    channels=("x", "y"),
    sampling_rate=25.0,
)
ALL = {
    SequenceClassifier: FULL,
    SequenceTagger: TaggerConfig(d_input=1, classes=("a", "b"), backbone=SMALL),
    SequenceRegressor: RegressorConfig(
        d_input=1, targets=("mass",), target_statistics=TargetStatistics((70.0,), (12.0,)), backbone=SMALL
    ),
    BidirectionalClassifier: BidirectionalClassifierConfig(d_input=1, classes=("a", "b"), backbone=SMALL),
}
ADAPTER = pydantic.TypeAdapter(Annotated[ModelConfig, pydantic.Field(discriminator="kind")])


@pytest.mark.parametrize("config", ALL.values(), ids=lambda config: config.kind)
def test_a_configuration_survives_json_and_pydantic(config: ModelConfig) -> None:
    values = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(values) == config
    assert ADAPTER.validate_python(values) == config
    assert hash(config_from_dict(values)) == hash(config)
    assert config_to_dict(ADAPTER.validate_json(json.dumps(values))) == values


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_build_makes_the_model_that_the_configuration_names(kind: type) -> None:
    model = build(ALL[kind])
    assert type(model) is kind
    assert model.config is ALL[kind]
    assert model.training


def test_defaults_may_be_left_out() -> None:
    read = config_from_dict({"kind": "tagger", "d_input": 1, "classes": ["a"], "backbone": {"n_layers": 2}})
    assert read == TaggerConfig(d_input=1, classes=("a",), backbone=BackboneConfig(n_layers=2))
    assert ADAPTER.validate_python({"kind": "tagger", "d_input": 1, "classes": ["a"]}) == TaggerConfig(
        d_input=1, classes=("a",)
    )


def test_whole_numbers_serve_as_floats() -> None:
    values = config_to_dict(FULL) | {"sampling_rate": 25}
    assert isinstance(config_from_dict(values).sampling_rate, float)


REMOVE = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("backbone.n_layer", 4, r"`backbone\.n_layer` is not a setting .* d_model, n_layers, layer"),
        ("backbone.layer.l_max", 4, r"`backbone\.layer\.l_max` is not a setting"),
        ("d_input", REMOVE, r"`d_input` is missing, but it has no default; add it"),
        ("kind", REMOVE, r"`kind` is missing, but one of classifier, tagger, regressor, step_regressor, bidir"),
        ("kind", "transformer", r"`kind` is 'transformer', but one of classifier, "),
        ("kind", ["classifier"], r"`kind` is \['classifier'\], but one of"),
        ("backbone.layer.kind", REMOVE, r"`backbone\.layer\.kind` is missing, but one of s4d, s4.* is"),
        ("backbone.layer", "s4d", r"`backbone\.layer` is 's4d', but a mapping is needed"),
        ("backbone.layer.d_state", "64", r"`backbone\.layer\.d_state` is '64', but an integer is needed"),
        ("backbone.layer.d_state", 64.0, r"`backbone\.layer\.d_state` is 64\.0, but an integer"),
        ("backbone.n_layers", True, r"`backbone\.n_layers` is True, but an integer"),
        ("backbone.dropout", True, r"`backbone\.dropout` is True, but a finite number"),
        ("backbone.dropout", math.nan, r"`backbone\.dropout` is nan, but a finite number"),
        ("backbone.norm", "group", r"`backbone\.norm` is 'group', but one of layer, rms, batch is needed"),
        ("backbone", None, r"`backbone` is None, but a mapping is needed"),
        ("classes", "ab", r"`classes` is 'ab', but a list is needed"),
        ("classes", ["a", 1], r"`classes\.1` is 1, but a string is needed"),
        ("statistics.shift", ["0", 1], r"`statistics\.shift\.0` is '0', but a finite number"),
        ("channels", ["x"], r"`channels` names 1 channels, but d_input=2 names are needed"),
    ],
)
def test_a_dictionary_is_read_strictly(path: str, value: object, message: str) -> None:
    values: dict[str, Any] = copy.deepcopy(config_to_dict(FULL))
    *folders, name = path.split(".")
    place = values
    for folder in folders:
        place = place[folder]
    if value is REMOVE:
        del place[name]
    else:
        place[name] = value
    with pytest.raises(InputError, match=message):
        config_from_dict(values)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"l_max": 4}, ("classifier", "l_max")),
        ({"backbone": {"depth": 4}}, ("classifier", "backbone", "depth")),
        ({"backbone": {"layer": {"kind": "s4", "l_max": 4}}}, ("classifier", "backbone", "layer", "S4Config", "l_max")),
        ({"statistics": {"shift": [0, 0], "scale": [1, 1], "kind": "z"}}, ("classifier", "statistics", "kind")),
        ({"statistics": {"shift": [0, 0], "scale": [1, 0]}}, ("classifier", "statistics")),
        ({"kind": "transformer"}, ()),
    ],
)
def test_pydantic_refuses_the_same(change: dict[str, Any], place: tuple[str, ...]) -> None:
    values = {"kind": "classifier", "d_input": 2, "classes": ["a", "b"]}
    ADAPTER.validate_python(values)
    with pytest.raises(pydantic.ValidationError) as caught:
        ADAPTER.validate_python(values | change)
    assert place in [error["loc"] for error in caught.value.errors()]


def test_a_layer_without_kind_is_the_default_one_to_pydantic() -> None:
    values = {"kind": "tagger", "d_input": 1, "classes": ["a"], "backbone": {"layer": {"d_state": 8}}}
    assert ADAPTER.validate_python(values).backbone.layer == S4DConfig(d_state=8)


def test_something_else_than_a_mapping_is_refused() -> None:
    with pytest.raises(InputError, match=r"`model` is \[\], but a mapping is needed"):
        config_from_dict([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, r"`classes` is empty, but at least one name is needed"),
        ({"classes": ("a", "b", "a")}, r"`classes` has 'a' twice, but different names are needed; rename"),
        ({"classes": ["a", "b"]}, r"`classes` is \['a', 'b'\], but a tuple of strings is needed"),
        ({"classes": "ab"}, r"`classes` is 'ab', but a tuple of strings is needed"),
        ({"d_input": 0}, r"`d_input` is 0, but a positive integer"),
        ({"channels": ("x",)}, r"`channels` names 1 channels, but d_input=2 names"),
        ({"channels": ("x", "x")}, r"`channels` has 'x' twice"),
        ({"sampling_rate": 0.0}, r"`sampling_rate` is 0\.0, but a positive number in Hz"),
        ({"sampling_rate": math.inf}, r"`sampling_rate` is inf, but"),
        ({"statistics": InputStatistics((0.0,), (1.0,))}, r"`statistics` has 1 channels, but d_input=2 are needed"),
    ],
)
def test_what_cannot_be_right_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"d_input": 2, "classes": ("a", "b")} | change
    with pytest.raises(InputError, match=message):
        ClassifierConfig(**arguments)
    with pytest.raises(InputError, match=message):
        TaggerConfig(**arguments)
    with pytest.raises(InputError, match=message):
        BidirectionalClassifierConfig(**arguments)
    arguments["targets"] = arguments.pop("classes")
    with pytest.raises(InputError, match=message.replace("classes", "targets")):
        RegressorConfig(**arguments)


@pytest.mark.parametrize(
    ("shift", "scale", "message"),
    [
        ((0.0, 1.0), (1.0,), "2 shifts and 1 scales, but one of each a column"),
        ((0.0, 1.0), (1.0, 0.0), r"shift 1\.0 and scale 0\.0 in column 1, but finite float32 numbers"),
        ((math.nan,), (1.0,), "shift nan and scale 1.0 in column 0"),
        ((0.0,), (1e-46,), "scale 1e-46 in column 0"),
    ],
)
def test_statistics_that_divide_by_nothing_are_refused(shift: tuple, scale: tuple, message: str) -> None:
    with pytest.raises(InputError, match=f"`statistics` has .*{message}"):
        InputStatistics(shift, scale)
    with pytest.raises(InputError, match=f"`target_statistics` has .*{message}"):
        TargetStatistics(shift, scale)


def test_target_statistics_are_as_wide_as_the_targets() -> None:
    with pytest.raises(InputError, match="`target_statistics` has 2 values, but one for each of the 1 targets"):
        RegressorConfig(d_input=1, targets=("a",), target_statistics=TargetStatistics((0.0, 0.0), (1.0, 1.0)))


def test_sizes_and_names_are_refused_where_they_are_used() -> None:
    with pytest.raises(InputError, match="`n_layers` is 0, but a positive integer"):
        Backbone(BackboneConfig(n_layers=0))
    with pytest.raises(InputError, match="`norm` is 'group', but one of layer, rms, batch"):
        Backbone(BackboneConfig(norm="group"))
    with pytest.raises(InputError, match="`pooling` is 'max', but one of mean, last"):
        build(ClassifierConfig(d_input=1, classes=("a",), pooling="max"))
    with pytest.raises(InputError, match=r"the layer's configuration is a str, but one of S4DConfig, .* is needed"):
        build_layer("s4d", 4)
    with pytest.raises(InputError, match="the configuration is a BackboneConfig, but one of a model is needed"):
        build(BackboneConfig())


def test_every_field_of_a_layer_reaches_it() -> None:
    d = build_layer(
        S4DConfig(d_state=6, init="inv", rule="bilinear", channels=2, n_ssm=2, dropout=0.5, output="linear"), 4
    )
    assert (d.d_state, d.rule, d.channels, d.A_real.shape) == (6, "bilinear", 2, (2, 3))
    assert [type(part).__name__ for part in d.output] == ["GELU", "Dropout", "Linear"]
    assert d.output[1].p == 0.5
    s = build_layer(S4Config(d_state=6, init="legt", rule="zoh", n_ssm=1, dt_min=0.5, dt_max=0.5, b_clip=0.1), 4)
    assert (s.d_state, s.rule, s.P.shape[:2]) == (6, "zoh", (2, 1))
    assert s.log_dt.exp().tolist() == pytest.approx([0.5] * 4)
    assert float(s.B.detach().abs().max()) == pytest.approx(0.1)
