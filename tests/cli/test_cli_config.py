from dataclasses import fields
from pathlib import Path

import pytest

from longstate._checks import InputError
from longstate.cli.config import FitConfig
from longstate.cli.config_file import (
    config_from_tree,
    parse_override,
    parse_yaml,
    read_config,
    to_tree,
    to_yaml,
)
from longstate.models import BackboneConfig, S4Config, S4DConfig
from longstate.training import TrainingConfig

KEYS = ", ".join(field.name for field in fields(TrainingConfig))
WATCH = {"data": {"source": "watch"}}


def errors(tree: dict, overrides: dict | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        config_from_tree(tree, "c.yaml", overrides)
    return str(caught.value).split("\n")


def test_a_source_is_enough() -> None:
    config = config_from_tree(WATCH, "c.yaml").config
    assert config.data.source == "watch"
    assert config.model.backbone == BackboneConfig()
    assert config.training == TrainingConfig()


def test_everything_can_be_said_and_is_read_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        """
data:
  source: package:seglearn/x.csv
  channels: [a, b]
  normalise: minmax
  split: {by: group, validation: 0.1, test: 0, seed: 3, test_groups: [9, "10"]}
model:
  kind: regressor
  pooling: last
  backbone: {d_model: 32, n_layers: 2, norm: rms, dropout: 0, layer: {kind: s4, init: legt, d_state: 16}}
training: {lr: 1e-3, epochs: 3, gradient_clip: null}
evaluation:
  protocol: leave_one_group_out
  candidates: [{name: wide, set: {model.backbone.d_model: 64}}, {name: plain}]
output: runs/x
"""
    )
    plan = read_config(path)
    config = plan.config
    assert config.data.split.test_groups == ("9", "10")
    assert config.model.task == "regression"
    assert config.model.backbone.layer == S4Config(init="legt", d_state=16)
    assert (config.training.lr, config.training.gradient_clip) == (1e-3, None)
    assert plan.candidates["wide"].model.backbone.d_model == 64
    assert plan.candidates["plain"] == config
    again = parse_yaml(to_yaml(to_tree(config)), "again")
    assert config_from_tree(again, "again").config == config


def test_every_error_is_listed_at_once_where_it_stands() -> None:
    tree = {
        "data": {"sorce": "watch", "normalise": "zscor", "split": {"validation": 0.7, "test": 0.5}},
        "model": {
            "kind": "clasifier",
            "backbone": {
                "d_model": "wide",
                "n_layers": 0,
                "dropout": 1,
                "layer": {"kind": "s4", "init": "lin", "d_stat": 8, "d_state": 7},
            },
        },
        "training": {"lr": -1, "epochs": 0, "batch_size": 1.5, "crop": True, "wd": 1},
        "evaluation": {"candidates": [{"set": {}}]},
        "outptu": 1,
    }
    assert set(errors(tree)) == {
        "c.yaml: data.source: is missing",
        "c.yaml: data.sorce: unknown key; did you mean source? (got 'watch')",
        "c.yaml: data.normalise: one of zscore, minmax or none is needed (got 'zscor')",
        "c.yaml: data.split.validation: `validation` is 0.7 beside a `test` of 0.5, but something has to train; "
        "choose them so that their sum is below 1.",
        "c.yaml: model.kind: one of classifier, bidirectional_classifier, tagger, regressor or step_regressor, or "
        "language_model is needed (got 'clasifier')",
        "c.yaml: model.backbone.d_model: an integer is needed (got 'wide')",
        "c.yaml: model.backbone.n_layers: one layer at least is needed (got 0)",
        "c.yaml: model.backbone.dropout: a share from 0 to below 1 is needed (got 1.0)",
        "c.yaml: model.backbone.layer.init: one of legs, legsd, legt, lagt, tlagt, glagt, fourier, fout, "
        "fourier_decay, fourier2, fourier_diag, foud, hippo, diag or all is needed (got 'lin')",
        "c.yaml: model.backbone.layer.d_stat: unknown key; did you mean d_state? (got 8)",
        "c.yaml: model.backbone.layer.d_state: `d_state` is 7, but an even size is needed, since modes come in "
        "conjugate pairs; use 8.",
        "c.yaml: training.lr: `lr` is -1.0, but a number of more than 0 is needed; the default is 0.004.",
        "c.yaml: training.epochs: `epochs` is 0, but a positive integer is needed; give `epochs` at least 1.",
        "c.yaml: training.batch_size: an integer is needed (got 1.5)",
        "c.yaml: training.crop: an integer is needed (got true)",
        f"c.yaml: training.wd: unknown key; known are {KEYS} (got 1)",
        "c.yaml: evaluation.candidates.0.name: is missing",
        "c.yaml: outptu: unknown key; did you mean output? (got 1)",
    }


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"data": 5}, "c.yaml: data: a section of `name: value` lines is needed (got 5)"),
        ({"model": {"backbone": {"layer": 5}}}, "model.backbone.layer: a section of `name: value` lines is needed"),
        ({"model": {"backbone": {"layer": {"kind": "s6"}}}}, "parallel_hybrid is needed (got 's6')"),
        ({"model": {"backbone": {"layer": {"init": "legt"}}}}, "layer.init: one of lin, inv, inv2, quad, legs, "),
        ({"model": {"backbone": {"layer": {"dt_min": 0.2}}}}, "layer.dt_min: `dt_min` is 0.2 and `dt_max` 0.1"),
        ({"model": {"backbone": {"layer": {"n_ssm": 7}}}}, "layer.n_ssm: `n_ssm` is 7, but a divisor of d_model=64"),
        (
            {"model": {"backbone": {"pattern": [{"kind": "h3"}, {"kind": "feed_forward", "dropout": 1.0}]}}},
            "model.backbone.pattern.1.dropout: a share from 0 to below 1 is needed (got 1.0)",
        ),
        ({"model": {"backbone": {"pattern": [{"kind": "h4"}]}}}, "model.backbone.pattern.0.kind: one of s4d, s4, "),
        ({"model": {"kind": "tagger", "pooling": "mean"}}, "model.pooling: `pooling` is 'mean', but a tagger answers"),
        ({"training": {"lr": "fast"}}, "training.lr: a number is needed (got 'fast')"),
        ({"training": {"lr": float("nan")}}, "training.lr: `lr` is nan"),
        ({"training": {"device": "tpu"}}, "training.device: one of auto, cpu, cuda or mps is needed (got 'tpu')"),
        ({"output": None}, "output: a text is needed (got nothing)"),
        ({"evaluation": {"inner_folds": 1}}, "evaluation.inner_folds: `inner_folds` is 1"),
        (
            {"evaluation": {"candidates": [{"name": "a"}]}},
            "evaluation.candidates: `candidates` has 1 entries, but they",
        ),
        ({"data": {"source": "watch", "split": {"test": -1}}}, "data.split.test: `test` is -1"),
    ],
)
def test_one_error(section: dict, message: str) -> None:
    (only,) = errors({**WATCH, **section})
    assert message in only


def test_candidates_are_checked_before_anything_runs() -> None:
    candidates = [{"name": "a", "set": {"training.l": 3, "output.x": 1}}, {"name": "b"}]
    evaluation = {"protocol": "leave_one_group_out", "candidates": candidates}
    assert errors({**WATCH, "evaluation": evaluation, "output": "runs/x"}) == [
        "c.yaml: evaluation.candidates.0.set.output: a section is needed to set output.x (got 'runs/x')",
        "c.yaml: evaluation.candidates.0.set.training.l: unknown key; did you mean lr? (got 3)",
    ]


def test_overrides_go_over_the_file_and_are_named_as_what_they_are() -> None:
    overrides = dict(map(parse_override, ("training.lr=2e-3", "data.split.test_groups=[9, 10]", "model.kind=tagger")))
    config = config_from_tree({**WATCH, "training": None}, "c.yaml", overrides).config
    assert (config.training.lr, config.data.split.test_groups, config.model.kind) == (2e-3, ("9", "10"), "tagger")
    assert errors(WATCH, {"training.lr": "x"}) == ["command line: training.lr: a number is needed (got 'x')"]
    assert errors({**WATCH, "output": "x"}, {"output.y": 1}) == [
        "c.yaml: output: a section is needed to set output.y (got 'x')"
    ]


@pytest.mark.parametrize("text", ["training.lr", "=3", "training..lr=3"])
def test_an_override_has_one_form(text: str) -> None:
    with pytest.raises(InputError, match=r"has no form `dotted\.path=value`; write, for example, -s training\.lr"):
        parse_override(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [", "is not YAML .*line 1.*, but a configuration is needed"),
        ("just words", "holds 'just words', but sections such as `data:`"),
        ("", "holds nothing, but sections"),
        ("a: !!python/object:os.system x", "is not YAML .*could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


def test_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\x80\x04\xff")
    with pytest.raises(InputError, match=r"is not UTF-8 text, but a YAML file is needed"):
        read_config(path)


def test_a_layer_without_a_kind_is_s4d() -> None:
    tree = {**WATCH, "model": {"backbone": {"layer": {"d_state": 8}}}}
    assert config_from_tree(tree, "c.yaml").config.model.backbone.layer == S4DConfig(d_state=8)


def test_the_tree_that_was_given_is_left_alone() -> None:
    tree = {"data": {"source": "watch", "split": {"test_groups": [1]}}}
    config_from_tree(tree, "c.yaml", {"data.split.test": 0.1})
    assert tree == {"data": {"source": "watch", "split": {"test_groups": [1]}}}
    assert isinstance(config_from_tree(tree, "c.yaml").config, FitConfig)
