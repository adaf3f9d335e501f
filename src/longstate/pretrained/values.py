"""The values of somebody's config.json, read one by one with their types checked."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longstate._checks import InputError

_LARGEST = 2**24
_MISSING = object()


class Values:
    """A JSON object of a configuration whose members are asked for by name.

    A default given as `default=` is what the authors' program takes when the name is missing.

    Args:
        path: Where it comes from, for messages.
        values: The object.
        prefix: Of an inner object, what stands before its names in messages.

    Example:
        >>> from pathlib import Path
        >>> from longstate.pretrained.values import Values
        >>> values = Values(Path("config.json"), {"d_model": 64, "rms_norm": True})
        >>> values.integer("d_model"), values.boolean("rms_norm"), values.number("eps", default=1e-5)
        (64, True, 1e-05)
    """

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self._path = path
        self._values = values
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def integer(self, name: str, *, default: Any = _MISSING) -> int:
        """An integer from 1 to 16,777,216."""
        return self._integer(name, self._get(name, default), 1)

    def place(self, name: str, *, default: Any = _MISSING) -> int:
        """An integer from 0."""
        return self._integer(name, self._get(name, default), 0)

    def number(self, name: str, *, default: Any = _MISSING) -> float:
        """A finite number."""
        value = _unwrapped(self._get(name, default))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(name, value, "a finite number")
        return float(value)

    def divisor(self, name: str, *, default: Any = _MISSING) -> float:
        """A finite number above 0."""
        value = self.number(name, default=default)
        if not value > 0:
            raise self._wrong(name, self._get(name, default), "a number above 0")
        return value

    def boolean(self, name: str, *, default: Any = _MISSING) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, *, default: Any = _MISSING) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def is_text(self, name: str, text: str) -> bool:
        """Whether a value is this string, such as "auto" in the place of a number."""
        return self._values.get(name) == text

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; none if it is missing."""
        value = self._get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, value, "a list of strings")
        return tuple(value)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers from 0, or a single one; none if it is missing."""
        value = self._get(name, [])
        return tuple(self._integer(name, item, 0) for item in (value if isinstance(value, list) else [value]))

    def numbers(self, name: str, count: int, *, default: float) -> tuple[float, ...]:
        """A list of so many finite numbers; all of them are the default if it is missing."""
        value = self._get(name, [default] * count)
        if not isinstance(value, list) or len(value) != count:
            raise self._wrong(name, value, f"a list of {count} numbers")
        one = Values(self._path, {f"{name}[{i}]": item for i, item in enumerate(value)}, self._prefix)
        return tuple(one.number(f"{name}[{i}]") for i in range(count))

    def interval(self, name: str, *, default: tuple[float, float]) -> tuple[float, float | None]:
        """Two numbers that keep a third between them; no upper limit, in any spelling of infinity, is None."""
        value = self._get(name, list(default))
        ends = [_unwrapped(end) for end in value] if isinstance(value, list) else []
        if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
            raise self._wrong(name, value, "a list of two numbers")
        if not 0 <= ends[0] <= ends[1] or math.isinf(ends[0]):
            raise self._wrong(name, value, "two numbers 0 <= smallest <= largest")
        return float(ends[0]), None if math.isinf(ends[1]) else float(ends[1])

    def inner(self, name: str) -> "Values":
        """The object under a name; an empty one if it is missing."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return Values(self._path, value, f"{self._prefix}{name}.")

    def expect(self, name: str, *wanted: Any) -> None:
        """Raise unless a value is missing or one of those that longstate's layer has."""
        value = self._values.get(name)
        if value is not None and value not in wanted:
            raise InputError(
                f"`{self._path}` has {self._name(name)} = {value!r}, but longstate's form of this model has "
                f"{' or '.join(repr(one) for one in wanted) or 'no such thing'}; it cannot be loaded."
            )

    def check_known(self, *names: str) -> None:
        """Raise if there are other names: arguments of a layer that would change what it computes."""
        unknown = next((name for name in self._values if name not in names), None)
        if unknown is not None:
            raise InputError(
                f"`{self._path}` has {self._name(unknown)} = {self._values[unknown]!r}, which longstate does not know "
                f"there (it knows {', '.join(names)}); it cannot be loaded."
            )

    def contradiction(self, name: str, wanted: str) -> InputError:
        """The sentence for a value that does not go with others."""
        return self._wrong(name, self._values.get(name), wanted)

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _MISSING:
            raise InputError(
                f"`{self._path}` lacks {self._name(name)}, but it is needed to know the model; use the configuration "
                "that was saved with the weights."
            )
        return default

    def _integer(self, name: str, value: Any, smallest: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= _LARGEST:
            raise self._wrong(name, value, f"an integer from {smallest} to {_LARGEST}")
        return value

    def _wrong(self, name: str, value: Any, wanted: str) -> InputError:
        return InputError(
            f"`{self._path}` has {self._name(name)} = {value!r}, but {wanted} is needed; use the configuration that "
            "was saved with the weights."
        )

    def _name(self, name: str) -> str:
        return f"{self._prefix}{name}"


def _unwrapped(value: Any) -> Any:
    """Infinity as transformers 5 writes it, {"__float__": "Infinity"}, as a number."""
    if isinstance(value, dict) and value.keys() == {"__float__"}:
        return {"Infinity": math.inf, "-Infinity": -math.inf}.get(str(value["__float__"]), value)
    return value
