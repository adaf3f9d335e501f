"""The reference of `docs/fit.md` names every key of the configuration, with its default where that is a number."""

import dataclasses
import json
import re
from pathlib import Path

from longstate.cli.config import DataSection, EvaluationSection, ModelSection, SplitSection
from longstate.cli.text_config import STACK, TextDataSection, TextModelSection, TextSplitSection
from longstate.models import BackboneConfig, S4Config, S4DConfig
from longstate.training import TextTrainingConfig, TrainingConfig

PAGE = (Path(__file__).parents[2] / "docs" / "fit.md").read_text()
SECTIONS = {
    "data": DataSection,
    "data.split": SplitSection,
    "model": ModelSection,
    "model.backbone": BackboneConfig,
    "model.backbone.layer": S4Config,
    "training": TrainingConfig,
    "evaluation": EvaluationSection,
}
NESTED = {"data.split", "model.backbone", "model.backbone.layer"}


def keys() -> set[str]:
    found = {f"{path}.{field.name}" for path, section in SECTIONS.items() for field in dataclasses.fields(section)}
    found |= {f"model.backbone.layer.{field.name}" for field in dataclasses.fields(S4DConfig)}
    return found - NESTED | {"output"}


def test_the_reference_names_every_key_and_no_other() -> None:
    table = PAGE.partition("## Every key")[2]
    named = {key for line in re.findall(r"^\| (`.*?`) \|", table, re.M) for key in re.findall(r"`([\w.]+)`", line)}
    assert named == keys()


def test_defaults_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| (`.*?`) \| (.*?) \|", PAGE, re.M))
    for names, defaults in rows.items():
        for key, said in zip(re.findall(r"`([\w.]+)`", names), defaults.split(", "), strict=False):
            section, _, name = key.rpartition(".")
            if re.fullmatch(r"[\d.]+", said):
                assert getattr(
                    SECTIONS[section](source="x") if section == "data" else SECTIONS[section](), name
                ) == float(said)


TEXT_PAGE = (Path(__file__).parents[2] / "docs" / "text.md").read_text()
TEXT_SECTIONS = {
    "data": TextDataSection(source="x"),
    "data.split": TextSplitSection(),
    "model": TextModelSection(),
    "model.backbone": STACK,
    "training": TextTrainingConfig(),
}


def test_the_reference_of_language_models_names_every_key_and_its_default() -> None:
    rows = dict(re.findall(r"^\| (`.*?`) \| (.*?) \|", TEXT_PAGE.partition("## Every key")[2], re.M))
    named = {key for names in rows for key in re.findall(r"`([\w.]+)`", names)}
    fields = {
        f"{path}.{field.name}" for path, section in TEXT_SECTIONS.items() for field in dataclasses.fields(section)
    }
    assert named == fields - {"data.split", "model.backbone"} | {"output"}
    for names, defaults in rows.items():
        for key, said in zip(re.findall(r"`([\w.]+)`", names), defaults.split(", "), strict=False):
            section, _, name = key.rpartition(".")
            if re.fullmatch(r"[\d.]+|true|false", said):
                assert getattr(TEXT_SECTIONS[section], name) == json.loads(said), key
