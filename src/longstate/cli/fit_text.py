"""`longstate fit` for a language model: from text to a model that knows how well it predicts."""

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import longstate
from longstate import training
from longstate.cli.config_file import TextPlan, to_yaml
from longstate.cli.console import print_table
from longstate.cli.runs import Options
from longstate.cli.text_config import TextFitConfig
from longstate.cli.texts import TOKENIZER, Parts, model_config, parts_of, tokenizer_of
from longstate.cli.trained import write_facts
from longstate.models import LanguageModel, Tokenizer, atomic
from longstate.training import TextEvaluation
from longstate.training.lightning_door import is_main_process

NAMED = 1000
"""Documents of a part whose names are written down beside a model."""


class TextRun(NamedTuple):
    """A trained language model, its tokenizer and how its training went."""

    model: LanguageModel
    tokenizer: Tokenizer
    result: training.FitResult


def fit_documents(plan: TextPlan, options: Options) -> None:
    """Train once, choose the best epoch by the validation part, and read the test part at the end."""
    config, folder = plan.config, Path(plan.config.output)
    tokenizer = tokenizer_of(config.data)
    parts = parts_of(config.data, tokenizer, store_of(config))
    if is_main_process() and options.progress:
        print(sizes_of(parts), file=sys.stderr)
    run = train_text(config, tokenizer, parts, folder, options)
    if not is_main_process():
        return
    evaluations = judge(run.model, {name: part for name, part in parts.items() if name != "train"}, config)
    if evaluations:
        print_text_evaluations(evaluations)
    write_text_facts(plan, run, parts, evaluations)
    for line in closing(folder, run):
        print(line)


def store_of(config: TextFitConfig) -> Path:
    """Where the tokens of a run are kept."""
    return Path(config.data.store) if config.data.store else Path(config.output) / "tokens"


def sizes_of(parts: Parts) -> str:
    """The documents and the bytes of every part, in words."""
    words = [f"{len(part):,} documents ({part.bytes:,} bytes) {name}" for name, part in parts.items()]
    return ", ".join(words)


def train_text(config: TextFitConfig, tokenizer: Tokenizer, parts: Parts, folder: Path, options: Options) -> TextRun:
    """Train one language model in one folder, or continue there; its tokenizer comes to lie beside it."""
    built = model_config(config.model, config.data, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = LanguageModel(built)
    if options.init_from is not None:
        training.initialise_from(model, options.init_from)
    started = (folder / "checkpoints" / "last.ckpt").exists()
    result = training.fit_text(
        model,
        parts["train"],
        parts.get("validation"),
        config.training,
        folder,
        resume=options.resume and started,
        progress=options.progress,
    )
    if built.tokenizer == TOKENIZER and is_main_process():
        shutil.copyfile(config.data.tokenizer, folder / "model" / TOKENIZER)
    return TextRun(model, tokenizer, result)


def judge(model: LanguageModel, parts: Parts, config: TextFitConfig) -> dict[str, TextEvaluation]:
    """How well parts are predicted, in the way in which the model was trained."""
    how, context = config.training, context_of(config)
    return {
        name: training.evaluate_text(
            model, part, batch_size=how.batch_size, sequence_length=how.sequence_length, context=context
        )
        for name, part in parts.items()
    }


def context_of(config: TextFitConfig) -> int | None:
    """Tokens after which a model forgets a document in evaluation: never if it was trained on carried states."""
    return None if config.training.carry_state else config.training.sequence_length


def print_text_evaluations(
    evaluations: Mapping[str, TextEvaluation], title: str = "How well text is predicted"
) -> None:
    """A table for a person."""
    rows = [
        (
            name,
            f"{each.documents:,}",
            f"{each.bytes:,}",
            f"{each.tokens:,}",
            f"{each.bits_per_byte:.3f}",
            f"{each.perplexity:.3f}",
        )
        for name, each in evaluations.items()
    ]
    print_table(title, ("part", "documents", "bytes", "tokens", "bits per byte", "perplexity"), rows)


def write_text_facts(plan: TextPlan, run: TextRun, parts: Parts, evaluations: Mapping[str, TextEvaluation]) -> None:
    """What the model was trained on and how it went, beside it, and the configuration in the run's folder."""
    config, result = plan.config, run.result
    known: dict[str, Any] = {
        "longstate": longstate.__version__,
        "source": config.data.source,
        "context": context_of(config),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "steps": result.steps,
        **{name: value for name, value in result.metrics.items() if name.startswith(("train_", "val_"))},
        **{
            name: {"bits_per_byte": each.bits_per_byte, "perplexity": each.perplexity}
            for name, each in evaluations.items()
        },
        "text": dataclasses.asdict(config.data),
        "parts": {name: list(part.names) for name, part in parts.items() if len(part) <= NAMED},
        "digests": {name: part.digest() for name, part in parts.items()},
    }
    write_facts(result.folder / "model", known)
    atomic.write(result.folder / "config.yaml", to_yaml(plan.tree).encode())


def closing(folder: Path, run: TextRun) -> list[str]:
    """What there is now, and what to do with it."""
    result, model = run.result, folder / "model"
    why = "the best on the validation part" if "val_loss" in result.metrics else "the last"
    ran = " (stopped early)" if result.stopped_early else ""
    return [
        *result.notices,
        f"{model} holds the model of epoch {result.best_epoch} of {result.epochs}{ran}, {why}; {folder} holds log.csv, "
        "curves.png and config.yaml.",
        "Next:",
        f"  longstate generate {model} --prompt TEXT",
        f"  longstate evaluate {model} SOURCE",
        f"  longstate info {model}",
    ]
