"""YAML and dotted overrides to a `FitConfig` or a `TextFitConfig`, with every error at once and where it is."""

import copy
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from longstate._checks import InputError
from longstate.cli.config import FitConfig
from longstate.cli.problems import Problem, Tree, line, said
from longstate.cli.text_config import TextFitConfig
from longstate.cli.validation import is_text, validate


class Plan(NamedTuple):
    """A configuration, the configurations to choose from, and the tree they come from."""

    config: FitConfig
    candidates: dict[str, FitConfig]
    tree: Tree


class TextPlan(NamedTuple):
    """A configuration of a language model, and the tree it comes from."""

    config: TextFitConfig
    tree: Tree


def read_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Plan | TextPlan:
    """The configuration in a YAML file, with overrides; `model.kind` says of what.

    Args:
        path: Of the file.
        overrides: Values by their dotted paths.

    Raises:
        InputError: If the file is no YAML, or anything in it or in an override is wrong; all of it is listed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text, but a YAML file is needed; correct the path.") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise InputError(
            f"{path} holds {said(tree)}, but sections such as `data:` and `model:` are needed; docs/fit.md lists them."
        )
    return plan_from_tree(tree, str(path), overrides)


def plan_from_tree(tree: Tree, source: str, overrides: Mapping[str, Any] | None = None) -> Plan | TextPlan:
    """The configuration that a tree holds, of a language model or of another one, as `model.kind` says."""
    changed, _ = with_values(tree, overrides or {})
    return (text_config_from_tree if is_text(changed) else config_from_tree)(tree, source, overrides)


def text_config_from_tree(tree: Tree, source: str, overrides: Mapping[str, Any] | None = None) -> TextPlan:
    """The configuration of a language model that a tree holds; as `config_from_tree`."""
    given = overrides or {}
    tree, problems = with_values(tree, given)
    config, more = validate(tree, TextFitConfig)
    problems += more
    if problems or config is None:
        raise InputError("\n".join(line(problem, source, given) for problem in problems))
    return TextPlan(config, tree)


def config_from_tree(tree: Tree, source: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """The configuration that a tree of plain values holds, after overrides.

    Args:
        tree: As YAML gives it; not changed.
        source: What errors call it.
        overrides: Values by their dotted paths.

    Raises:
        InputError: One line for everything that is wrong: `source: dotted.path: message (got value)`.
    """
    given = overrides or {}
    tree, problems = with_values(tree, given)
    config, more = validate(tree, FitConfig)
    problems += more
    candidates: dict[str, FitConfig] = {}
    for number, candidate in enumerate(config.evaluation.candidates if config is not None else ()):
        changed, wrong = with_values(tree, candidate.set)
        chosen, more = validate(changed, FitConfig)
        if chosen is not None:
            candidates[candidate.name] = chosen
        place = ("evaluation", "candidates", str(number), "set")
        problems += [problem._replace(path=(*place, ".".join(problem.path))) for problem in wrong + more]
    if problems or config is None:
        raise InputError("\n".join(line(problem, source, given) for problem in problems))
    return Plan(config, candidates, tree)


def parse_yaml(text: str, source: str) -> Any:
    """What YAML text says; numbers such as 1e-3 are numbers.

    Raises:
        InputError: If it is no YAML.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise InputError(
            "a configuration needs PyYAML, which is not installed; run pip install 'longstate[cli]'"
        ) from error

    class Loader(yaml.SafeLoader):
        """YAML 1.2 numbers: 1e-3 has no dot, which YAML 1.1 reads as text."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise InputError(
            f"{source} is not YAML ({what}), but a configuration is needed; correct that place."
        ) from error


def to_tree(config: FitConfig | TextFitConfig) -> Tree:
    """A configuration as plain dictionaries and lists, every default included."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_yaml(tree: Tree) -> str:
    """A tree as YAML."""
    import yaml

    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)


def with_values(tree: Tree, values: Mapping[str, Any]) -> tuple[Tree, list[Problem]]:
    """A copy of a tree with values put in at dotted paths, and the paths that lead through something else."""
    tree, problems = copy.deepcopy(tree), []
    for dotted, value in values.items():
        *sections, name = dotted.split(".")
        node: Any = tree
        for depth, section in enumerate(sections, start=1):
            if node.get(section) is None:
                node[section] = {}
            node = node[section]
            if not isinstance(node, dict):
                problems.append(Problem(tuple(sections[:depth]), f"a section is needed to set {dotted}", said(node)))
                break
        else:
            node[name] = copy.deepcopy(value)
    return tree, problems


def parse_override(text: str) -> tuple[str, Any]:
    """`dotted.path=value` as the path and what YAML makes of the value.

    Raises:
        InputError: If it has another form.
    """
    path, sign, value = text.partition("=")
    path = path.strip()
    if not sign or not all(path.split(".")):
        raise InputError(f"-s {text} has no form `dotted.path=value`; write, for example, -s training.lr=0.002.")
    return path, parse_yaml(value, f"the value in -s {text}")
