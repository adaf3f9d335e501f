"""`longstate convert`: a published checkpoint as a folder that longstate reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from longstate.cli.console import print_facts, print_json, print_table

if TYPE_CHECKING:
    import torch

    from longstate.pretrained import Converted, Facts

UP_TO = 40
"""Rows of the table for a person; --json holds all."""


class Asked(NamedTuple):
    """What the command line says about a checkpoint, each None if it says nothing.

    Args:
        layer: Of a file with several: what the names of the one to take begin with.
        rule: Discretisation.
        dt_transform: "exp" or "softplus".
        length: For which C was prepared.
        task: "classifier", "tagger" or "regressor".
        names: Of classes or targets, between commas.
        pooling: "mean" or "last".
        dtype: Type of the parameters: "float32", "bfloat16", "float16" or "float64".
    """

    layer: str | None = None
    rule: str | None = None
    dt_transform: str | None = None
    length: int | None = None
    task: str | None = None
    names: str | None = None
    pooling: str | None = None
    dtype: str | None = None


def run_convert(source: Path, out: Path, asked: Asked, *, force: bool, as_json: bool) -> None:
    """Convert a checkpoint and say where every tensor in it went.

    Args:
        source: The checkpoint.
        out: The folder to write; made if needed.
        asked: What the file does not say.
        force: Whether a model in `out` may be replaced.
        as_json: Print JSON and nothing else.

    Raises:
        InputError: If the checkpoint cannot be converted, or `out` is not empty and `force` is not given.
    """
    from longstate import __version__, pretrained
    from longstate.cli.trained import write_facts

    _check_free(out, force)
    converted = pretrained.convert(source, layer=asked.layer, facts=_facts(asked), dtype=_dtype(asked))
    pretrained.save(converted, out)
    write_facts(out, {"longstate": __version__, "source": str(source), "converted": converted.source})
    if as_json:
        print_json(_account(source, out, converted))
        return
    _print_rows(f"{source}: {converted.source}", ("tensor", "shape", "becomes"), converted.used)
    if converted.left:
        _print_rows("Not needed", ("tensor", "shape", "because"), converted.left)
    if converted.assumed:
        print_facts("Not in the file, so assumed", {f"{at}.": said for at, said in enumerate(converted.assumed, 1)})
    parameters = sum(parameter.numel() for parameter in converted.model.parameters())
    print(f"{out} holds {type(converted.model).__name__} ({parameters} parameters): longstate info {out}")


def _check_free(out: Path, force: bool) -> None:
    from longstate._checks import InputError

    if not force and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} is there already and not empty, but a new folder is needed; give another, or --force to replace "
            "the model in it."
        )


def _facts(asked: Asked) -> "Facts":
    from longstate.pretrained import Facts

    given: dict[str, Any] = asked._asdict()
    del given["layer"], given["dtype"]
    given["names"] = None if asked.names is None else tuple(asked.names.split(","))
    return Facts(**given)


def _dtype(asked: Asked) -> "torch.dtype | None":
    import torch

    from longstate._checks import check_choice

    if asked.dtype is None:
        return None
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    check_choice(asked.dtype, tuple(types), name="dtype")
    return types[asked.dtype]


def _print_rows(title: str, columns: Sequence[str], rows: Sequence[tuple[str, tuple[int, ...], str]]) -> None:
    print_table(title, columns, [(name, _written(shape), last) for name, shape, last in rows[:UP_TO]])
    if len(rows) > UP_TO:
        print(f"... and {len(rows) - UP_TO} more: --json lists all.")


def _written(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape) or "a number"


def _account(source: Path, out: Path, converted: "Converted") -> dict[str, Any]:
    return {
        "checkpoint": str(source),
        "recognised": converted.source,
        "folder": str(out),
        "holds": type(converted.model).__name__,
        "used": [row._asdict() for row in converted.used],
        "left": [row._asdict() for row in converted.left],
        "assumed": list(converted.assumed),
    }
