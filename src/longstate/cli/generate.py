"""`longstate generate`: text from a language model, as it comes."""

import os
import sys
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from longstate import models, ops
from longstate._checks import InputError, check_positive
from longstate.cli.console import print_json
from longstate.cli.trained import load_language_model
from longstate.inference import Sampling, generate
from longstate.models import LanguageModel, Tokenizer


class Wanted(NamedTuple):
    """What is to be said, and how far.

    Args:
        prompt: Text to go on from.
        prompt_file: A file with that text instead.
        begin: The prompt begins a document.
        max_new_tokens: At most so many.
        stop: Strings that end the text.
        seed: Of chance.
    """

    prompt: str | None = None
    prompt_file: Path | None = None
    begin: bool = False
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0


def run_generate(folder: Path, wanted: Wanted, sampling: Sampling, *, device: str, as_json: bool) -> None:
    """Print what a model says after a prompt: the new text alone, while it comes.

    Args:
        folder: The saved model.
        wanted: The prompt, and where to end.
        sampling: How a token is chosen.
        device: "auto", "cpu", "cuda" or "mps".
        as_json: Print JSON at the end and nothing else.

    Raises:
        InputError: If there is no language model, or the prompt or a number cannot be used.
    """
    check_positive(max_new_tokens=wanted.max_new_tokens)
    if wanted.seed < 0:
        raise InputError(f"`--seed` is {wanted.seed}, but an integer of at least 0 is needed; 0 is the default.")
    if not all(wanted.stop):
        raise InputError("`--stop` is empty, but a string of a character at least is needed; leave it out.")
    text = prompt_of(wanted)
    ops.set_up_allocator()
    trained = load_language_model(folder, device=device)
    config = trained.model.config
    tokenizer = models.load_tokenizer(config.tokenizer, trained.folder, vocabulary_size=config.vocabulary_size)
    ids = prompt_ids(trained.model, tokenizer, text, begin=wanted.begin)
    clock = [perf_counter()]

    def show(row: int, token: int | None, piece: str) -> None:
        if token is not None:
            clock.append(perf_counter())
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    (found,) = generate(
        trained.model,
        [ids],
        max_new_tokens=wanted.max_new_tokens,
        sampling=sampling,
        seed=wanted.seed,
        stop=wanted.stop,
        tokenizer=tokenizer,
        on_token=show,
    )
    speed = (len(clock) - 2) / (clock[-1] - clock[1]) if len(clock) > 2 else None
    if as_json:
        told = {"model": str(folder), "prompt": text.decode(errors="replace"), "text": found.text}
        numbers = {"prompt_tokens": len(ids), "new_tokens": len(found.ids), "tokens_per_second": speed}
        print_json({**told, "reason": found.reason, **numbers, "ids": list(found.ids)})
        return
    if not (found.text or "").endswith("\n"):
        print()
    said = "" if speed is None else f", {speed:.0f} tokens/s"
    why = {"length": "--max-new-tokens reached", "end": "the text ended", "stop": "a --stop string came"}[found.reason]
    print(f"{len(found.ids)} tokens after a prompt of {len(ids)}{said} ({why})", file=sys.stderr)


def prompt_of(wanted: Wanted) -> bytes:
    """The text to go on from, as bytes."""
    if wanted.prompt is not None and wanted.prompt_file is not None:
        raise InputError("both `--prompt` and `--prompt-file` are given, but one of them is needed; leave one out.")
    if wanted.prompt_file is not None:
        return wanted.prompt_file.read_bytes()
    return os.fsencode(wanted.prompt or "")


def prompt_ids(model: LanguageModel, tokenizer: Tokenizer, text: bytes, *, begin: bool) -> list[int]:
    """The tokens of a prompt; of an empty one the end token, behind which a document begins."""
    ids = tokenizer.encode(text).tolist()
    if not begin and ids:
        return ids
    if not model.config.end_ids:
        what = "`--begin` is given" if begin else "the prompt is empty"
        raise InputError(
            f"{what}, but the model has no end token that a text could begin with; give a prompt of a token at least, "
            "without --begin."
        )
    return [model.config.end_ids[0], *ids]
