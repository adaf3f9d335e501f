"""A tree of plain values held against the dataclasses of the configuration: everything that is wrong, at once."""

import dataclasses
import json
from typing import Any, TypeVar

import torch

from longstate import models
from longstate._checks import InputError
from longstate.cli.config import FitConfig
from longstate.cli.problems import Path, Problem, Tree, at, named, said, translated
from longstate.cli.text_config import STACK, TextFitConfig

_SECTIONS = (
    ("data",),
    ("data", "split"),
    ("model",),
    ("model", "backbone"),
    ("model", "backbone", "layer"),
    ("training",),
    ("evaluation",),
)
_BACKBONE = ("model", "backbone")
_LAYER = (*_BACKBONE, "layer")


Config = TypeVar("Config", FitConfig, TextFitConfig)


def is_text(tree: Tree) -> bool:
    """Whether a tree is about a language model, and so a `TextFitConfig`."""
    return at(tree, ("model", "kind")) == "language_model"


def validate(tree: Tree, root: type[Config]) -> tuple[Config | None, list[Problem]]:
    """The configuration in a tree, or everything that is wrong with it.

    pydantic lists all wrong names and types at once, but a check across values (a `__post_init__`, the building of a
    layer) stops at its first; that value is put aside and the tree is held up again, until nothing new is found.

    Args:
        tree: Plain values; not changed.
        root: What it is to be.

    Returns:
        The configuration (None if anything is wrong), and the problems.
    """
    tree = _prepared(tree, root)
    found: dict[Path, Problem] = {}
    while True:
        config, problems = _parse(tree, root)
        if config is not None:
            problems = _build_problems(config, tree)
        fresh = {problem.path: problem for problem in problems if problem.path not in found}
        found |= fresh
        moved = [path for path in fresh if _put_aside(tree, path)]
        if not moved:
            return (None if found else config), list(found.values())


def _parse(tree: Tree, root: type[Config]) -> tuple[Config | None, list[Problem]]:
    try:
        import pydantic
    except ModuleNotFoundError as error:
        raise InputError(
            "a configuration is checked with pydantic, which is not installed; run pip install 'longstate[cli]'"
        ) from error
    try:
        return pydantic.TypeAdapter(root).validate_json(json.dumps(tree), strict=True), []
    except pydantic.ValidationError as error:
        located = [translated(entry, tree, root) for entry in error.errors(include_url=False)]
        return None, [problem for problem in located if problem is not None]


def _prepared(tree: Tree, root: type[Config]) -> Tree:
    """A copy in which an empty section is a section, groups are names, and a layer says its kind.

    What is not said of a language model's stack is that of `STACK`.
    """
    tree = json.loads(json.dumps(tree, default=str))
    for path in _SECTIONS:
        parent = at(tree, path[:-1])
        if isinstance(parent, dict) and path[-1] in parent and parent[path[-1]] is None:
            parent[path[-1]] = {}
    stack = models.BackboneConfig()
    if root is TextFitConfig and isinstance(at(tree, _BACKBONE), dict):
        stack = STACK
        tree["model"]["backbone"] = {**json.loads(json.dumps(dataclasses.asdict(STACK))), **tree["model"]["backbone"]}
    layer, split = at(tree, _LAYER), at(tree, ("data", "split"))
    if isinstance(layer, dict):
        layer.setdefault("kind", stack.layer.kind)
    for name in ("validation_groups", "test_groups"):
        if isinstance(split, dict) and isinstance(split.get(name), list):
            split[name] = [str(group) if isinstance(group, int | float) else group for group in split[name]]
    return tree


def _build_problems(config: FitConfig | TextFitConfig, tree: Tree) -> list[Problem]:
    """What the layers say of their sizes: one of them is built, for one channel."""
    backbone = config.model.backbone
    pattern = {(*_BACKBONE, "pattern", str(place)): layer for place, layer in enumerate(backbone.pattern)}
    sections = {_BACKBONE: backbone, _LAYER: backbone.layer, **pattern}
    problems = [
        Problem((*path, "dropout"), "a share from 0 to below 1 is needed", said(vars(section)["dropout"]))
        for path, section in sections.items()
        if not 0 <= vars(section).get("dropout", 0) < 1
    ]
    if backbone.n_layers < 1:
        problems.append(Problem((*_BACKBONE, "n_layers"), "one layer at least is needed", said(backbone.n_layers)))
    if problems:
        return problems
    trial = models.TaggerConfig(d_input=1, classes=("a", "b"), backbone=dataclasses.replace(backbone, n_layers=1))
    try:
        with torch.random.fork_rng(devices=[]):
            models.build(trial)
    except InputError as error:
        return [named(error, [(_LAYER, type(backbone.layer)), (_BACKBONE, models.BackboneConfig)])]
    return []


def _put_aside(tree: Tree, path: Path) -> bool:
    """Take a value out (of a list: the list), so that what is behind it is seen; a source gets one that passes."""
    if path in (("data",), ("data", "source")):
        tree["data"] = {**(tree["data"] if isinstance(tree.get("data"), dict) else {}), "source": "nowhere"}
        return True
    node: Any = tree
    for depth, part in enumerate(path):
        if not isinstance(node, dict) or part not in node:
            return False
        if depth == len(path) - 1 or isinstance(node[part], list):
            del node[part]
            return True
        node = node[part]
    return False
