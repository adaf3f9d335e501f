"""What is wrong with a configuration, said where it stands."""

import dataclasses
import difflib
import re
import types
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

Tree = dict[str, Any]
Path = tuple[str, ...]

_WANTED = {
    "int_type": "an integer is needed",
    "float_type": "a number is needed",
    "string_type": "a text is needed",
    "tuple_type": "a list is needed",
    "dict_type": "a section of `name: value` lines is needed",
    "dataclass_type": "a section of `name: value` lines is needed",
}


class Problem(NamedTuple):
    """One thing that is wrong: where in the tree, what is needed, and what came instead (None: nothing did)."""

    path: Path
    message: str
    value: str | None = None


def line(problem: Problem, source: str, overridden: Container[str]) -> str:
    """`source: dotted.path: message (got value)`; where an override put the value, the source is the command line."""
    parts = [".".join(problem.path[: depth + 1]) for depth in range(len(problem.path))]
    place = "command line" if any(part in overridden for part in parts) else source
    came = "" if problem.value is None else f" (got {problem.value})"
    return ": ".join(part for part in (place, ".".join(problem.path), problem.message) if part) + came


def said(value: Any) -> str:
    """A value as the user may have written it, at most 60 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def at(tree: Any, path: Sequence[str | int]) -> Any:
    """What stands at a path; None if nothing does."""
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree


def translated(entry: Mapping[str, Any], tree: Tree, root: type) -> Problem | None:
    """One of pydantic's errors.

    Args:
        entry: Of `ValidationError.errors()`.
        tree: What was validated.
        root: What it was to be.

    Returns:
        The problem, or None if it is about a member of a union that was not meant: its `kind` is another.
    """
    wanted: Any = root
    owner: Any = None
    place: list[str | int] = []
    for part in entry["loc"]:
        if len(_members(wanted)) < 2:
            owner, wanted = wanted, _inside(wanted, part)
            place.append(part)
            continue
        value = at(tree, place)
        if not isinstance(value, dict):
            return Problem(_text(place), _WANTED["dataclass_type"], said(value))
        by_kind = {get_args(get_type_hints(member)["kind"])[0]: member for member in _members(wanted)}
        wanted = by_kind.get(value.get("kind"))
        if wanted is None:
            return Problem((*_text(place), "kind"), f"one of {', '.join(by_kind)} is needed", said(value.get("kind")))
        if wanted.__name__ != part:
            return None
    return _told(entry, _text(place), owner if entry["type"] == "unexpected_keyword_argument" else wanted)


def named(error: Exception, places: Sequence[tuple[Path, type]]) -> Problem:
    """The sentence of an error about a field: at the first place that has a field of the name it begins with."""
    name = re.match(r"`(\w+)`", str(error))
    for path, section in places:
        if name and name[1] in [field.name for field in dataclasses.fields(section)]:
            return Problem((*path, name[1]), str(error))
    return Problem(places[-1][0], str(error))


def _told(entry: Mapping[str, Any], path: Path, section: Any) -> Problem:
    """The problem in the words of this project; `section` is the dataclass that the error is about."""
    kind, came = entry["type"], said(entry["input"])
    if kind == "unexpected_keyword_argument":
        return Problem(path, f"unknown key; {_suggestion(path[-1], section)}", came)
    if kind == "missing":
        return Problem(path, "is missing")
    if kind == "value_error":
        return named(entry["ctx"]["error"], [(path, section)])
    if kind == "literal_error":
        choices = entry["ctx"]["expected"].replace("'", "")
        if path == ("model", "kind"):  # its configuration is another one
            choices += ", or language_model"
        return Problem(path, f"one of {choices} is needed", came)
    return Problem(path, _WANTED[kind] if kind in _WANTED else entry["msg"], came)


def _suggestion(name: str, section: type) -> str:
    """The known key that is nearest to a wrong one, or all of them."""
    known = [field.name for field in dataclasses.fields(section)]
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _members(wanted: Any) -> list[Any]:
    """The dataclasses that a type admits."""
    options = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    return [option for option in options if dataclasses.is_dataclass(option)]


def _inside(wanted: Any, part: str | int) -> Any:
    """The type of a field of a dataclass, or of an entry of a list."""
    members = _members(wanted)
    if members:
        return get_type_hints(members[0]).get(str(part))
    return next(iter(get_args(wanted)), None)


def _text(place: Sequence[str | int]) -> Path:
    return tuple(str(part) for part in place)
