"""The commands and their options; each loads what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train structured state space models on long recordings, then run them sample by sample.",
    epilog="Start with `longstate demo`. A configuration written out in full: `longstate fit CONFIG --show`.",
)

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a trained model.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (anywhere in a command).")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """What holds for every command."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the model, the log and the pictures.")] = Path("longstate-demo"),
    epochs: Annotated[int | None, typer.Option(help="Shorter or longer training.", show_default=False)] = None,
) -> None:
    """Train on eight people's exercises, test on two unseen ones, then stream one of their recordings."""
    from longstate.cli.demo import run_demo

    run_demo(output, epochs=epochs)


@app.command()
def stream(
    model: Model,
    raw: Annotated[bool, typer.Option("--raw", help="Rows are little-endian float32, not CSV.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Print after every N rows.", metavar="N")] = 1,
    state: Annotated[
        Path | None,
        typer.Option(help="Continue from this file if it exists, and write it at the end.", show_default=False),
    ] = None,
) -> None:
    """Rows on standard input, one line of probabilities out for each: for ever, in constant memory."""
    from longstate.cli.stream import run_stream

    run_stream(model, raw=raw, every=every, state=state)


@app.command()
def info(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="Folder of a trained model.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """What is installed here and what could be; or what a model is."""
    from longstate.cli.info import run_info

    run_info(model, as_json=json)
