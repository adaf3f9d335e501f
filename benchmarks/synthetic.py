"""Trains a model of each layer on each synthetic task of `recipes/synthetic` and prints how good they are.

`python benchmarks/synthetic.py` runs all pairs; names of tasks and layers limit it, `seeds=3` repeats each pair on
other sequences from other weights, and a dotted path such as `training.epochs=4` overrides the recipes. A recipe is the
same for all layers: width, depth, sequences, epochs and rates. The best epoch is chosen on the validation part, and the
test part is read once a seed. Tokens: the share of right answers. Numbers: the root mean squared error in units of the
standard deviation of what is to be said.
"""

import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

from longstate import ops, training
from longstate.cli.config_file import parse_override, read_config
from longstate.cli.prepare import divide, read_source
from longstate.cli.runs import Options, train
from longstate.data.synthetic import labels_of

RECIPES = Path(__file__).parent.parent / "recipes" / "synthetic"
LAYERS: dict[str, dict[str, Any]] = {
    "S4D": {"kind": "s4d"},
    "H3": {"kind": "h3", "head_dim": 4},
    "Hyena": {"kind": "hyena"},
    "Mamba": {"kind": "mamba"},
}
"""The layers and what differs from their default settings; a Hyena filter is as long as the sequences."""


class Result(NamedTuple):
    """Accuracy or error on the test part, and seconds of the processor, all threads, that training took."""

    score: float
    seconds: float


def run(recipe: Path, layer: dict[str, Any], seed: int, overrides: Mapping[str, Any] | None = None) -> Result:
    """Train one model on one task, and test it.

    Args:
        recipe: A YAML file.
        layer: The section of the layer.
        seed: Of the sequences, the weights and the order.
        overrides: More settings, by dotted paths.

    Returns:
        How good the model of the best validation epoch is on the test part.
    """
    given = dict(overrides or {})
    data = read_config(recipe, given).config.data
    given |= {"data.source": f"{data.source}&seed={seed}", "training.seed": seed}
    recordings = read_source(dataclasses.replace(data, source=given["data.source"]), labels_of(data.source))
    limit = {"filter_length": int(recordings.lengths.max())} if layer["kind"] == "hyena" else {}
    config = read_config(recipe, given | {"model.backbone.layer": layer | limit}).config
    parts = {name: recordings.select(rows) for name, rows in divide(recordings, config.data.split)._asdict().items()}
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model = train(config, parts["train"], parts["validation"], Path(folder) / "run", Options(progress=False)).model
    seconds = time.process_time() - begun
    return Result(score(training.evaluate(model, parts["test"])), seconds)


def score(evaluation: training.Evaluation) -> float:
    """The accuracy, or the root mean squared error in units of the deviation."""
    if isinstance(evaluation, training.RegressionEvaluation):
        return evaluation.loss**0.5
    return evaluation.accuracy


def rows(recipes: Mapping[str, Path], layers: list[str], seeds: int, overrides: Mapping[str, Any]) -> Iterator[str]:
    """A line of the table for each task."""
    for task, recipe in recipes.items():
        is_tagging = labels_of(read_config(recipe, overrides).config.data.source) == "tagging"
        cells = []
        for name in layers:
            results = [run(recipe, LAYERS[name], seed, overrides) for seed in range(seeds)]
            scores, seconds = [one.score for one in results], mean(one.seconds for one in results)
            spread = f" ({min(scores):.3f} to {max(scores):.3f})" if seeds > 1 else ""
            cells.append(f"{mean(scores):.3f}{spread}, {seconds:.0f} s")
            print(f"{task}, {name}: {cells[-1]}", file=sys.stderr, flush=True)
        yield f"| {task.replace('_', ' ')}, {'accuracy' if is_tagging else 'error'} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    ops.set_up_allocator()
    recipes = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    seeds, tasks, layers = 1, [], []
    overrides: dict[str, Any] = {}
    for argument in sys.argv[1:]:
        if argument.startswith("seeds="):
            seeds = int(argument.removeprefix("seeds="))
        elif argument in recipes:
            tasks.append(argument)
        elif argument in LAYERS:
            layers.append(argument)
        elif "." in argument.partition("=")[0]:
            path, value = parse_override(argument)
            overrides[path] = value
        else:
            raise SystemExit(f"{argument} is no task or layer; choose from {', '.join([*recipes, *LAYERS])}.")
    tasks, layers = tasks or list(recipes), layers or list(LAYERS)
    today = time.strftime("%Y-%m-%d")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today}\n")
    print(f"| task | {' | '.join(layers)} |\n{'|---' * (len(layers) + 1)}|")
    for row in rows({name: recipes[name] for name in tasks}, layers, seeds, overrides):
        print(row, flush=True)


if __name__ == "__main__":
    main()
