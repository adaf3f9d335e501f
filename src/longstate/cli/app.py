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
BatchSize = Annotated[int, typer.Option(min=1, help="Recordings at once.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def _version(asked: bool) -> None:
    if asked:
        import longstate

        typer.echo(longstate.__version__)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere in a command).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What holds for every command."""


@app.command()
def demo(
    what: Annotated[
        str, typer.Argument(metavar="[WHAT]", help="watch (recordings of exercises) or text (a language model).")
    ] = "watch",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for everything; default: longstate-demo, longstate-demo-text.", show_default=False),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Of watch: shorter or longer training.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Of text: minutes of training; default: 2.", show_default=False)
    ] = None,
) -> None:
    """Train on eight people's exercises and stream one of two others'; or learn to write Python from Python."""
    from longstate.cli.demo import run_any_demo

    run_any_demo(what, output, epochs=epochs, minutes=minutes)


@app.command()
def fit(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help="A YAML file; or a source to train on with the defaults: watch, manifest.csv, X.ts, X.tsv, task:NAME, "
            "X.txt, X.jsonl.",
            show_default=False,
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="Set a dotted key, such as training.lr=0.002."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder exactly.")] = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps; default: the configuration's.", show_default=False)
    ] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="How many of them.", show_default=False)] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Begin with the weights of this model.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result only.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the whole configuration and stop.")] = False,
) -> None:
    """Train a model on labelled recordings and say how good it is on those it never saw."""
    from longstate.cli.fit import run_fit
    from longstate.cli.runs import Options

    options = Options(resume=resume, progress=not quiet, init_from=init_from)
    run_fit(config, settings or [], output=output, device=device, devices=devices, options=options, show=show)


@app.command()
def evaluate(
    model: Model,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Labelled recordings: watch, manifest.csv, X.ts, X.tsv; or text.")
    ],
    split: Annotated[
        str | None,
        typer.Option(help="train, validation, test or all; default: test if the source has one.", show_default=False),
    ] = None,
    json: Json = False,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    context: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens after which a language model forgets within a document, 0 for never; default: as in training.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """How good a model is: accuracy, macro-F1, the confusion matrix, and accuracy by length."""
    from longstate.cli.evaluate import run_evaluate

    run_evaluate(model, source, split=split, context=context, device=device, batch_size=batch_size, as_json=json)


@app.command()
def predict(
    model: Model,
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE_OR_FOLDER...", help="Recordings, folders of them, or a manifest.")
    ],
    csv: Annotated[Path | None, typer.Option(metavar="OUT", help="Write all answers here.", show_default=False)] = None,
    json: Json = False,
    device: Device = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """The class of every recording and the probabilities of all classes."""
    from longstate.cli.predict import run_predict

    run_predict(model, sources, out=csv, device=device, batch_size=batch_size, as_json=json)


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
def generate(
    model: Model,
    prompt: Annotated[str | None, typer.Option(help="Text to go on from.", show_default=False)] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with that text instead.", show_default=False)
    ] = None,
    begin: Annotated[bool, typer.Option("--begin", help="The prompt begins a document.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="At most so many.")] = 256,
    greedy: Annotated[bool, typer.Option("--greedy", help="The most probable token each time.")] = False,
    temperature: Annotated[float, typer.Option(help="Below 1 sharper, above 1 flatter.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most probable tokens.", show_default=False)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Keep the fewest tokens that have this share together.", show_default=False)
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep tokens of this share of the best one's.", show_default=False)
    ] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 against what was there before.")] = 1.0,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="STRING", help="End before this string (any number of times).", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of chance.")] = 0,
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Text from a language model, as it comes."""
    from longstate.cli.generate import Wanted, run_generate
    from longstate.inference import Sampling

    sampling = Sampling(
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    wanted = Wanted(prompt, prompt_file, begin, max_new_tokens, tuple(stop or ()), seed)
    run_generate(model, wanted, sampling, device=device, as_json=json)


@app.command()
def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A file of safetensors or torch.save, or a folder.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    layer: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="Take one layer: what its names begin with.", show_default=False),
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="Discretisation of S4D: zoh, bilinear, ...", show_default=False)
    ] = None,
    dt_transform: Annotated[
        str | None, typer.Option(help="How the stored step becomes dt: exp or softplus.", show_default=False)
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="The l_max of its training, where the file lacks it.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Of a whole model: classifier, tagger or regressor.", show_default=False)
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Of its classes or targets.", show_default=False)
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="What of the steps decides: mean or last.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of the weights: float32, bfloat16, float16, float64.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is in OUT.")] = False,
    json: Json = False,
) -> None:
    """A published checkpoint as a folder that longstate reads, every tensor accounted for."""
    from longstate.cli.convert import Asked, run_convert

    asked = Asked(layer, rule, dt_transform, length, task, names, pooling, dtype)
    run_convert(checkpoint, out, asked, force=force, as_json=json)


@app.command()
def bench(
    cases: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CASE...]", help="Names of cases, or all; none lists them.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for results.csv, results.md and pictures.", show_default=False)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often the sides take turns.", show_default=False)
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of PyTorch.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, once, to see that all runs.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Wait for sides that take minutes.")] = False,
    json: Json = False,
) -> None:
    """Time and memory beside other libraries, and beside the bare matrix products, on this machine."""
    from longstate.cli.bench import run_bench

    run_bench(cases or [], output=output, rounds=rounds, threads=threads, quick=quick, long=long, as_json=json)


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
