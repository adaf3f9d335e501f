"""`longstate evaluate`: how good a model is on labelled recordings."""

import sys
from pathlib import Path

from longstate import ops, training
from longstate._checks import InputError
from longstate.cli.config import task_of
from longstate.cli.console import print_json, print_table
from longstate.cli.trained import is_language_model, load_language_model, load_trained, part_of, read_for, rows_named

UP_TO = 20
"""Classes of which the whole confusion matrix is printed."""


def run_evaluate(
    folder: Path,
    source: str,
    *,
    split: str | None,
    context: int | None,
    device: str,
    batch_size: int,
    as_json: bool,
) -> None:
    """Judge a model and print how good it is.

    Args:
        folder: The saved model.
        source: Labelled recordings.
        split: Their part: "train", "validation", "test" or "all"; if None "test" where the source names one, else all.
        context: For a language model, tokens after which it forgets within a document.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: Recordings at once.
        as_json: Print JSON and nothing else.
    """
    ops.set_up_allocator()
    if is_language_model(folder):
        from longstate.cli.evaluate_text import evaluate_language_model

        text = load_language_model(folder, device=device)
        evaluate_language_model(text, source, split=split, context=context, batch_size=batch_size, as_json=as_json)
        return
    if context is not None:
        raise InputError(
            f"`--context` is {context}, but it counts the tokens of a language model, and {folder} holds none; leave "
            "it out."
        )
    trained = load_trained(folder, device=device)
    recordings = read_for(trained.model, source, task_of(trained.model.config.kind))
    part = split or ("test" if "test" in recordings.splits else "all")
    chosen = part_of(recordings, part, trained.facts, source)
    seen = len(rows_named(chosen, trained.facts.get("parts", {}).get("train", ())))
    if seen and part != "train":
        print(
            f"{seen} of these {len(chosen)} recordings trained the model; --split test leaves them out.",
            file=sys.stderr,
        )
    evaluation = training.evaluate(trained.model, chosen, batch_size=batch_size)
    if as_json:
        print_json({"model": str(folder), "source": source, "split": part, **evaluation.to_dict()})
    else:
        print_evaluation(evaluation, f"{source}, {part}")


def print_evaluation(evaluation: training.Evaluation, title: str) -> None:
    """Tables for a person."""
    if isinstance(evaluation, training.RegressionEvaluation):
        rows = [
            (score.name, f"{score.mae:.4g}", f"{score.rmse:.4g}", "-" if score.r2 is None else f"{score.r2:.3f}")
            for score in evaluation.targets
        ]
        print_table(f"{title}: {evaluation.count} answers", ("target", "MAE", "RMSE", "R2"), rows)
        return
    names = [score.name for score in evaluation.classes]
    print_table(
        f"{title}: accuracy {evaluation.accuracy:.3f}, macro-F1 {evaluation.macro_f1:.3f} ({evaluation.count} answers)",
        ("class", "count", "precision", "recall", "F1"),
        [
            (score.name, score.count, f"{score.precision:.3f}", f"{score.recall:.3f}", f"{score.f1:.3f}")
            for score in evaluation.classes
        ],
    )
    if len(names) <= UP_TO:
        print_table(
            "Confusion (rows: truth, columns: answer)",
            ("", *names),
            [(name, *(count or "." for count in row)) for name, row in zip(names, evaluation.confusion, strict=True)],
        )
    print_table(
        "By length",
        ("steps", "recordings", "accuracy"),
        [
            (f"{bucket.shortest} to {bucket.longest}", bucket.count, f"{bucket.accuracy:.3f}")
            for bucket in evaluation.buckets
        ],
    )
