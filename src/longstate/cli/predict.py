"""`longstate predict`: what a model says of recordings without labels."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from longstate import models, ops, training
from longstate.cli.answers import names
from longstate.cli.console import print_json, print_table
from longstate.cli.trained import load_trained, read_for
from longstate.models import atomic

UP_TO = 50
"""Rows of the table for a person; --csv and --json hold all."""


class Answer(NamedTuple):
    """What was said: of which recording (and step, if each is answered), the class (none for numbers), the numbers."""

    recording: str
    step: int | None
    answer: str | None
    values: tuple[float, ...]


def run_predict(
    folder: Path, sources: Sequence[str], *, out: Path | None, device: str, batch_size: int, as_json: bool
) -> None:
    """Answer for every recording of the sources.

    Args:
        folder: The saved model.
        sources: Recording files, folders of them, or manifests.
        out: A CSV file for all answers.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: Recordings at once.
        as_json: Print JSON and nothing else.
    """
    ops.set_up_allocator()
    model = load_trained(folder, device=device).model
    answers = [answer for source in sources for answer in predict_source(model, source, batch_size)]
    columns = names(model.config)
    if out is not None:
        atomic.write(out, _csv(answers, columns).encode())
    if as_json:
        print_json(
            [
                {
                    "recording": one.recording,
                    "step": one.step,
                    "answer": one.answer,
                    "values": dict(zip(columns, one.values, strict=True)),
                }
                for one in answers
            ]
        )
        return
    _print_answers(answers, columns)
    if out is not None:
        print(f"{len(answers)} answers are in {out}.")


def predict_source(model: models.Model, source: str, batch_size: int) -> list[Answer]:
    """The answers about one source, in its order; step by step if the model answers every step."""
    recordings = read_for(model, source, "prediction")
    single = Path(source).is_file() and len(recordings) == 1
    labels = (
        [source]
        if single
        else [str(Path(source) / name) if Path(source).is_dir() else name for name in recordings.names]
    )
    classes = None if isinstance(model.config, models.NumberConfig) else names(model.config)
    if isinstance(model, models.SequenceTagger | models.StepRegressor):
        steps = training.predict_steps(model, recordings, batch_size=batch_size)
        return [
            _answer(label, step, row, classes)
            for label, rows in zip(labels, steps, strict=True)
            for step, row in enumerate(rows)
        ]
    outputs = training.predict(model, recordings, batch_size=batch_size)
    return [_answer(label, None, row, classes) for label, row in zip(labels, outputs, strict=True)]


def _answer(recording: str, step: int | None, row: np.ndarray, classes: Sequence[str] | None) -> Answer:
    best = None if classes is None else classes[int(row.argmax())]
    return Answer(recording, step, best, tuple(row.tolist()))


def _csv(answers: Sequence[Answer], columns: Sequence[str]) -> str:
    """A header, then a line an answer; the step and the class where there are any."""
    has_step = any(one.step is not None for one in answers)
    has_class = any(one.answer is not None for one in answers)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["recording", *(["step"] * has_step), *(["class"] * has_class), *columns])
    for one in answers:
        head = [one.recording, *([one.step] * has_step), *([one.answer] * has_class)]
        writer.writerow([*head, *(f"{value:.7g}" for value in one.values)])
    return text.getvalue()


def _print_answers(answers: Sequence[Answer], columns: Sequence[str]) -> None:
    """A table for a person; of answers a step, the share of each class or the mean of each number in a recording."""
    has_class = any(one.answer is not None for one in answers)
    if any(one.step is not None for one in answers):
        steps: dict[str, list[Answer]] = {}
        for one in answers:
            steps.setdefault(one.recording, []).append(one)
        rows = [(recording, len(said), *_summary(said, columns)) for recording, said in steps.items()]
        title = "Shares of the steps" if has_class else "Means over the steps"
        print_table(title, ("recording", "steps", *columns), rows[:UP_TO])
    else:
        rows = [
            (one.recording, *([one.answer] * has_class), *(f"{value:.4g}" for value in one.values)) for one in answers
        ]
        print_table("Answers", ("recording", *(["class"] * has_class), *columns), rows[:UP_TO])
    if len(rows) > UP_TO:
        print(f"... and {len(rows) - UP_TO} more: --csv FILE writes all.")


def _summary(steps: Sequence[Answer], columns: Sequence[str]) -> list[str]:
    """Of the answers at the steps of one recording, a number for each column."""
    if steps[0].answer is None:
        return [f"{value:.4g}" for value in np.mean([one.values for one in steps], axis=0)]
    counts = Counter(one.answer for one in steps)
    return [f"{counts[name] / len(steps):.3f}" for name in columns]
