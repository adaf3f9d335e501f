"""`longstate demo`: train on eight people, test on two whom the model never saw, then stream one of them."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from longstate import data, ops, training
from longstate._checks import InputError, check_choice
from longstate.cli import watch
from longstate.cli.config_file import Plan, config_from_tree, to_yaml
from longstate.cli.evaluate import print_evaluation
from longstate.cli.live import show_running
from longstate.cli.prepare import divide, read_source
from longstate.cli.runs import Options, Run, facts, train
from longstate.cli.trained import write_facts
from longstate.diagnostics.plots import draw_stream
from longstate.inference import Session
from longstate.models import CausalModel, atomic

TREE = {
    "data": {"source": "watch", "split": {"by": "group", "test_groups": ["9", "10"], "validation": 0.0}},
    "model": watch.MODEL,
    "training": watch.TRAINING,
}
"""No validation part: the settings were chosen before, within people 1 to 8, and the last epoch counts."""

FOREST = 0.864
"""Accuracy of a random forest on summary statistics (means, deviations, ranges), each person left out in turn."""

MARK = "demo.json"


def run_any_demo(what: str, output: Path | None, *, epochs: int | None, minutes: float | None) -> None:
    """Run the demo of recordings ("watch") or of a language model ("text").

    Args:
        what: Which.
        output: Folder for everything; its own for each demo if None.
        epochs: Of "watch", instead of the tuned number.
        minutes: Of "text", instead of 2.

    Raises:
        InputError: If there is no such demo, or an option of the other one is given.
    """
    check_choice(what, ("watch", "text"), name="WHAT")
    if what == "watch":
        if minutes is not None:
            raise InputError(
                f"`--minutes` is {minutes:g}, but the demo watch counts epochs; give --epochs, or demo text."
            )
        run_demo(Path("longstate-demo") if output is None else output, epochs=epochs)
        return
    if epochs is not None:
        raise InputError(f"`--epochs` is {epochs}, but the demo text counts minutes; give --minutes, or demo watch.")
    from longstate.cli.demo_text import run_demo_text

    run_demo_text(
        Path("longstate-demo-text") if output is None else output, minutes=2.0 if minutes is None else minutes
    )


def run_demo(output: Path, *, epochs: int | None) -> None:
    """Do all of it and say what was done.

    Args:
        output: Folder for everything; one that an earlier demo left is used again.
        epochs: Instead of the tuned number.

    Raises:
        InputError: If the recordings are not installed, or `output` holds something else.
        SystemExit: 130 after Ctrl-C.
    """
    started = perf_counter()
    ops.set_up_allocator()
    plan = config_from_tree(
        {**TREE, "output": str(output)}, "demo", {} if epochs is None else {"training.epochs": epochs}
    )
    recordings = read_source(plan.config.data, "classification")
    parts = {
        name: recordings.select(rows) for name, rows in divide(recordings, plan.config.data.split)._asdict().items()
    }
    prepare(output)
    print(
        f"{len(recordings)} recordings from a smartwatch, {recordings.lengths.min()} to {recordings.lengths.max()} "
        f"steps of {len(recordings.channels)} channels at {recordings.sampling_rate:g} Hz: ten people, "
        f"{len(recordings.classes)} exercises of the shoulder.\n"
        f"Training on people 1 to 8 ({len(parts['train'])} recordings); people 9 and 10 stay unseen until the end.",
        flush=True,
    )
    try:
        run = train(plan.config, parts["train"], None, output, Options())
    except training.Interrupted as stop:
        print(
            f"Stopped in epoch {stop.epoch} of {stop.epochs}; the demo begins anew when it is called again.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    trained = perf_counter()
    judge(plan, run, parts, output)
    stream(run, parts["test"], output)
    print(closing(output, trained - started, perf_counter() - started))


def prepare(output: Path) -> None:
    """A folder for this demo: a new one, or one that an earlier demo left.

    Raises:
        InputError: If something else is in it.
    """
    if output.exists() and not (output / MARK).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not empty and no earlier demo made it; choose another folder with --output.")
    output.mkdir(parents=True, exist_ok=True)
    atomic.write(output / MARK, b"{}\n")
    for made in ("checkpoints", "model"):
        shutil.rmtree(output / made, ignore_errors=True)


def judge(plan: Plan, run: Run, parts: dict[str, data.Recordings], output: Path) -> None:
    """Test on the two people, print it beside the forest's figure, and write it down."""
    evaluation = training.evaluate(run.model, parts["test"])
    if isinstance(evaluation, training.RegressionEvaluation):
        raise InputError("the demo's model answers numbers, but a classifier is needed; leave its settings alone.")
    known = facts(plan.config, run, parts)
    known["test"] = {"accuracy": evaluation.accuracy, "macro_f1": evaluation.macro_f1}
    write_facts(output / "model", known)
    atomic.write(output / "config.yaml", to_yaml(plan.tree).encode())
    print_evaluation(evaluation, "People 9 and 10, whom the model never saw")
    print(
        f"accuracy on two unseen people: {evaluation.accuracy:.3f}\n"
        f"beside it: {FOREST:.3f}, a random forest on summary statistics: its mean over ten people, each left out in\n"
        "turn (0.71 to 1.00). Two people cannot rank the two: recipes/watch.yaml leaves out each of the ten.\n"
    )


def stream(run: Run, unseen: data.Recordings, output: Path) -> None:
    """Push the first unseen recording sample by sample, draw it, and compare with the whole of it in parallel."""
    model = run.model
    if not isinstance(model, CausalModel):
        raise InputError("the demo's model reads both ways, but only a causal one streams; leave its settings alone.")
    x, truth = unseen.x[0], unseen.classes[int(unseen.y[0])]
    write_recording(output / "recording.csv", x, unseen.channels)
    print(f"Streaming {unseen.names[0]} ({truth}), one sample after the other:")
    clock: list[float] = []
    torch.set_num_threads(1)  # one sample is too little work to share
    streamed = np.stack(show_running(_pushed(model, x, clock), unseen.classes, len(x), unseen.sampling_rate))
    with torch.no_grad():
        whole, _ = model.forward_with_state(torch.from_numpy(x)[None], model.initial_state(1))
    parallel = whole[0].softmax(-1).numpy()
    difference = float(np.abs(streamed - parallel).max())
    print(
        f"{len(x)} samples, {1e3 * float(np.median(clock)):.2f} ms each (the watch sends one every "
        f"{1e3 / (unseen.sampling_rate or 50):.0f} ms).\n"
        f"The whole recording in parallel gives the same probabilities: they differ by {difference:.1e} at most, "
        f"over {len(x)} steps."
    )
    draw_stream(
        output / "stream.png",
        streamed,
        x,
        classes=unseen.classes,
        channels=unseen.channels,
        sampling_rate=unseen.sampling_rate,
        title=f"{truth}, by a person the model never saw: its decision while the samples come in",
    )


def closing(output: Path, training_seconds: float, seconds: float) -> str:
    """What there is now, and what to try next."""
    return f"""
Training took {training_seconds:.0f} s, everything {seconds:.0f} s. {output} holds
  model/         the model: longstate info {output}/model
  log.csv        every epoch; curves.png draws it
  stream.png     the decision over the signal
  recording.csv  the recording that was streamed
Try next
  longstate stream {output}/model --every 50 < {output}/recording.csv
  longstate evaluate {output}/model watch --split test
  longstate fit watch                    other people, other settings: --show prints them all
  longstate fit your/manifest.csv        your recordings: a table with the columns path,label[,group]"""


def write_recording(path: Path, x: np.ndarray, channels: Sequence[str]) -> None:
    """A recording as CSV, exact to the bit of float32."""
    lines = [",".join(channels), *(",".join(f"{value:.9g}" for value in row) for row in x.tolist())]
    atomic.write(path, ("\n".join(lines) + "\n").encode())


def _pushed(model: CausalModel, x: np.ndarray, clock: list[float]) -> Iterator[np.ndarray]:
    """The probabilities after each sample; the seconds of each push go to `clock`."""
    session = Session(model)
    for row in torch.from_numpy(x):
        begun = perf_counter()
        probabilities = session.push(row[None])[0].softmax(-1).numpy()
        clock.append(perf_counter() - begun)
        yield probabilities
