"""A synthetic task by name, with its options: `task:copying?length=100&tokens=10`."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from longstate._checks import InputError
from longstate.data.recordings import SPLITS, Recordings, Task
from longstate.data.synthetic.numbers import NumberTask, delay, mackey_glass
from longstate.data.synthetic.tokens import TokenTask, associative_recall, copying, induction_heads, selective_copying

PREFIX = "task:"
TOKENS: dict[str, Callable[..., TokenTask]] = {
    "copying": copying,
    "selective_copying": selective_copying,
    "associative_recall": associative_recall,
    "induction_heads": induction_heads,
}
NUMBERS: dict[str, Callable[..., NumberTask]] = {"delay": delay, "mackey_glass": mackey_glass}
SYNTHETIC = (*TOKENS, *NUMBERS)
SIZES = {"train": 5000, "validation": 500, "test": 500}
"""Sequences of each part, unless the source says it."""
EASIER = "shortest"
"""The option of token tasks that mixes shorter sequences into the training part."""


def read_synthetic(source: str) -> Recordings:
    """The recordings of a synthetic task, in three parts that have nothing in common.

    Args:
        source: `task:NAME`, or `task:NAME?OPTION=VALUE&...` with the options of the generator of that name, and
            `train`, `validation`, `test` (sequences of each part) and `seed`. Tasks over tokens also take `shortest`:
            as many sequences of the training part have `length` as have its half, its quarter and so on down to that.

    Returns:
        Recordings for tagging, in which every token is a channel that is 1 where it stands and 0 elsewhere; or for step
        regression with one channel. Their `splits` are set; the parts come from the seeds 3 s, 3 s + 1, 3 s + 2, and
        shorter sequences each from a seed of their own.

    Raises:
        InputError: If there is no such task or option, or a value is not usable.

    Example:
        >>> read_synthetic("task:induction_heads?length=10&train=6&validation=2&test=2")
        Recordings(10 recordings, 11 to 11 steps, 19 channels, 18 classes)
    """
    name, options = _parse(source)
    sizes = {part: options.pop(part, count) for part, count in SIZES.items()}
    seed = 3 * options.pop("seed", 0)
    counts = {part: (seed + place, count) for place, (part, count) in enumerate(sizes.items()) if count}
    if not counts:
        raise InputError(f"{source} has no sequences in any part, but one at least is needed; set `train` above 0.")
    common: dict[str, Any] = {
        "groups": None,
        "splits": tuple(part for part, (_, count) in counts.items() for _ in range(count)),
        "names": tuple(f"{name}, {part} {row}" for part, (_, count) in counts.items() for row in range(count)),
        "sampling_rate": None,
    }
    if name in NUMBERS:
        made = [NUMBERS[name](count, seed, **options) for seed, count in counts.values()]
        x, y = (np.concatenate(part).astype(np.float32)[..., None] for part in zip(*made, strict=True))
        return Recordings(tuple(x), tuple(y), classes=(), channels=("x",), targets=("y",), **common)
    shortest = options.pop(EASIER, None)
    tasks: list[TokenTask] = []
    for part, (seed, count) in counts.items():
        every = {"every_key": part == "train"} if name == "associative_recall" else {}
        if part == "train" and shortest is not None:
            tasks += _halved(TOKENS[name], count, seed, shortest, options | every)
        else:
            tasks.append(TOKENS[name](count, seed, **options, **every))
    one_hot = np.eye(len(tasks[0].tokens), dtype=np.float32)
    x, y = tuple(one_hot[row] for task in tasks for row in task.x), tuple(row for task in tasks for row in task.y)
    return Recordings(x, y, classes=tasks[0].classes, channels=tasks[0].tokens, **common)


def labels_of(source: str) -> Task:
    """What the labels of a synthetic task are for: "tagging" or "step_regression".

    Example:
        >>> labels_of("task:delay?lag=100")
        'step_regression'
    """
    return "tagging" if _parse(source)[0] in TOKENS else "step_regression"


def _halved(
    generator: Callable[..., TokenTask], count: int, seed: int, shortest: int, options: dict[str, Any]
) -> list[TokenTask]:
    """`count` sequences in all, of the given length, its half, its quarter, ... as long as `shortest` or more."""
    length = options.pop("length", inspect.signature(generator).parameters["length"].default)
    if not 0 < shortest <= length:
        raise InputError(
            f"`shortest` is {shortest} for a `length` of {length}, but a whole number from 1 to the length is needed; "
            "leave it out for sequences of one length."
        )
    lengths = [length >> times for times in range((length // shortest).bit_length())]
    share = -(-count // len(lengths))
    sizes = [min(share, count - place * share) for place in range(len(lengths))]
    return [
        # Seeds that no other part has: else the first draws of two lengths would be the same.
        generator(size, seed + (place << 40), length=length, **options)
        for place, (length, size) in enumerate(zip(lengths, sizes, strict=True))
        if size > 0
    ]


def _parse(source: str) -> tuple[str, dict[str, Any]]:
    """The name of a task and the options that are given, each as a number."""
    name, _, given = source.removeprefix(PREFIX).partition("?")
    if name not in SYNTHETIC:
        raise InputError(f"{source} is asked for, but the tasks are {', '.join(SYNTHETIC)}; choose one of these.")
    known = _options(TOKENS.get(name) or NUMBERS[name])
    if name in TOKENS:
        known[EASIER] = int
    options: dict[str, Any] = {}
    for text in filter(None, given.split("&")):
        option, _, value = text.partition("=")
        if option not in known:
            raise InputError(
                f"{source} has the option {option!r}, but {name} has {', '.join(known)}; correct or remove it."
            )
        options[option] = _number(source, option, value, known[option])
    return name, options


def _options(generator: Callable[..., Any]) -> dict[str, type]:
    """The options of a generator and those that all have, with their types."""
    parameters = inspect.signature(generator).parameters.values()
    own = {one.name: type(one.default) for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    own.pop("every_key", None)
    return own | dict.fromkeys((*SPLITS, "seed"), int)


def _number(source: str, option: str, value: str, wanted: type) -> int | float:
    try:
        number = wanted(value)
    except ValueError:
        number = -1
    if number < 0:
        what = "a whole number" if wanted is int else "a number"
        raise InputError(f"{source} has {option}={value}, but {what} from 0 is needed; write {option}=NUMBER.")
    return number
