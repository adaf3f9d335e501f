"""Configurations as plain dictionaries (those of JSON and YAML) and back, strictly."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from longstate._checks import InputError
from longstate.models.config import ModelConfig
from longstate.models.image_config import ImageConfig
from longstate.models.language_model import LanguageModelConfig
from longstate.models.part import PartConfig

_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def config_to_dict(config: ModelConfig | PartConfig | LanguageModelConfig | ImageConfig) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists, as JSON and YAML know them.

    Args:
        config: Of any model, or of a part of one.

    Returns:
        All fields, defaults included.

    Example:
        >>> from longstate.models import TaggerConfig, config_from_dict, config_to_dict
        >>> config = TaggerConfig(d_input=1, classes=("a", "b"))
        >>> config_to_dict(config)["classes"]
        ['a', 'b']
        >>> config_from_dict(config_to_dict(config)) == config
        True
    """
    return _plain(config)


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a dictionary holds, checked field by field.

    Args:
        values: As `config_to_dict` gives it; fields that have a default may be left out, but for `kind`.

    Returns:
        The configuration of the model that `kind` names.

    Raises:
        InputError: If a key is unknown or missing, or a value has the wrong type; the dotted path is named.
    """
    return _read(ModelConfig, values, "")


def language_model_from_dict(values: Mapping[str, Any]) -> LanguageModelConfig:
    """The configuration of a language model, checked field by field as `config_from_dict` does.

    Args:
        values: As `config_to_dict` gives it.

    Raises:
        InputError: If a key is unknown or missing, or a value has the wrong type; the dotted path is named.
    """
    return _read(LanguageModelConfig, values, "")


def image_model_from_dict(values: Mapping[str, Any]) -> ImageConfig:
    """The configuration of an image model, checked field by field as `config_from_dict` does.

    Args:
        values: As `config_to_dict` gives it.

    Returns:
        The configuration of the model that `kind` names.

    Raises:
        InputError: If a key is unknown or missing, or a value has the wrong type; the dotted path is named.
    """
    return _read(ImageConfig, values, "")


def part_from_dict(values: Mapping[str, Any]) -> PartConfig:
    """The configuration of a layer or a backbone, checked field by field as `config_from_dict` does.

    Args:
        values: As `config_to_dict` gives it.

    Raises:
        InputError: If a key is unknown or missing, or a value has the wrong type; the dotted path is named.
    """
    return _read(PartConfig, values, "")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(wanted: Any, value: Any, path: str) -> Any:
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(wanted), value, path)
    if origin is Literal:
        choices = get_args(wanted)
        if not isinstance(value, str) or value not in choices:
            raise _wrong(path, value, f"one of {', '.join(choices)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(path, value, "a list")
        return tuple(_read(get_args(wanted)[0], item, f"{path}.{at}") for at, item in enumerate(value))
    if dataclasses.is_dataclass(wanted):
        return _read_fields(wanted, value, path)
    if wanted is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _wrong(path, value, "a finite number")
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise _wrong(path, value, _NAMES[wanted])
    return value


def _read_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return _read(members[0], value, path)
    if not isinstance(value, Mapping):
        raise _wrong(path, value, "a mapping")
    by_kind = {_kind(member): member for member in members}
    kind_path = _join(path, "kind")
    if "kind" not in value:
        raise InputError(f"`{kind_path}` is missing, but one of {', '.join(by_kind)} is needed; add it.")
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in by_kind:
        raise _wrong(kind_path, kind, f"one of {', '.join(by_kind)}")
    return _read(by_kind[kind], value, path)


def _read_fields(wanted: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(path, value, "a mapping")
    fields = {field.name: field for field in dataclasses.fields(wanted)}
    unknown = [str(key) for key in value if key not in fields]
    if unknown:
        raise InputError(
            f"`{_join(path, unknown[0])}` is not a setting that longstate knows, but one of {', '.join(fields)} is "
            "needed; correct its name or remove it."
        )
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in value]
    if missing:
        raise InputError(f"`{_join(path, missing[0])}` is missing, but it has no default; add it.")
    hints = get_type_hints(wanted)
    return wanted(**{name: _read(hints[name], item, _join(path, name)) for name, item in value.items()})


def _kind(member: Any) -> str:
    return get_args(get_type_hints(member)["kind"])[0]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, value: Any, wanted: str) -> InputError:
    return InputError(f"`{path or 'model'}` is {value!r}, but {wanted} is needed; correct that value.")
