"""`longstate demo text`: a Mamba learns to write Python from Python's own library, within minutes."""

import sys
import sysconfig
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from longstate import ops, training
from longstate.cli.compressors import compressed
from longstate.cli.config_file import TextPlan, text_config_from_tree
from longstate.cli.demo import prepare
from longstate.cli.fit_text import TextRun, judge, store_of, train_text, write_text_facts
from longstate.cli.runs import Options
from longstate.cli.texts import parts_of, tokenizer_of
from longstate.data import Documents
from longstate.inference import Sampling, generate
from longstate.training import TextEvaluation

LEFT_OUT = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")

MODEL: dict[str, Any] = {"backbone": {"d_model": 128, "n_layers": 4, "layer": {"kind": "mamba"}}}
TRAINING: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 8,
    "sequence_length": 256,
    "carry_state": True,
    "lr": 4e-3,
    "final_lr": 0.02,
    "warmup": 0.02,
}
"""Chosen on training files that were held back from trials; no validation part, since the last step counts."""

SAMPLING = Sampling(temperature=0.7, top_p=0.95)


def run_demo_text(output: Path, *, minutes: float) -> None:
    """Do all of it and say what was done.

    Args:
        output: Folder for everything; one that an earlier demo left is used again.
        minutes: Of training.

    Raises:
        InputError: If the library's source is not here, `output` holds something else, or there are no minutes.
        SystemExit: 130 after Ctrl-C.
    """
    ops.set_up_allocator()
    plan = text_config_from_tree(
        {
            "data": {
                "source": sysconfig.get_path("stdlib"),
                "suffixes": [".py"],
                "exclude": list(LEFT_OUT),
                "split": {"validation": 0.0, "test": 0.02},
            },
            "model": {"kind": "language_model", **MODEL},
            "training": {**TRAINING, "max_minutes": minutes},
            "output": str(output),
        },
        "demo",
    )
    prepare(output)
    tokenizer = tokenizer_of(plan.config.data)
    parts = parts_of(plan.config.data, tokenizer, store_of(plan.config))
    train, test = parts["train"], parts["test"]
    print(
        f"Python's own library, {len(train) + len(test)} files without its tests: a Mamba learns bytes of {len(train)} "
        f"of them\n({train.bytes:,} bytes) for {minutes:g} minutes; {len(test)} files ({test.bytes:,} bytes) stay "
        "unseen until the end.",
        flush=True,
    )
    begun = perf_counter()
    try:
        run = train_text(plan.config, tokenizer, parts, output, Options())
    except training.Interrupted:
        print("Stopped; the demo begins anew when it is called again.", file=sys.stderr)
        raise SystemExit(130) from None
    seconds = perf_counter() - begun
    (evaluation,) = judge(run.model, {"test": test}, plan.config).values()
    report(plan, run, parts, evaluation, seconds)
    write(run)
    print(closing(output))


def report(
    plan: TextPlan, run: TextRun, parts: dict[str, Documents], evaluation: TextEvaluation, seconds: float
) -> None:
    """Say how well the unseen files are predicted, beside what compressors need for them, and write it down."""
    write_text_facts(plan, run, parts, {"test": evaluation})
    how = plan.config.training
    seen = run.result.steps * how.batch_size * how.sequence_length
    count = sum(parameter.numel() for parameter in run.model.parameters())
    others = compressed(text_of(parts["test"]))
    print(
        f"\n{count:,} parameters, {run.result.steps:,} steps, about {seen / 1e6:.1f} million bytes read "
        f"({seen / seconds:,.0f} a second)\n"
        f"bits per byte on the unseen files: {evaluation.bits_per_byte:.3f} (every file read alone, from its first "
        "byte)\n"
        f"beside it, on all of these files in one: bz2 {others['bz2']:.3f}, xz {others['xz']:.3f}\n"
    )


def text_of(documents: Documents) -> bytes:
    """The bytes of documents whose tokens are bytes, one after the other."""
    edges = zip(documents.begins, documents.lengths, strict=True)
    parts = [documents.store.tokens[begin : begin + length] for begin, length in edges]
    return np.concatenate(parts).astype(np.uint8).tobytes()


def write(run: TextRun, tokens: int = 500) -> None:
    """Let the model write a file from nothing, as it comes."""
    print(f"What it writes, from nothing (temperature {SAMPLING.temperature}, top-p {SAMPLING.top_p}):\n")
    torch.set_num_threads(1)  # one token is too little work to share
    clock: list[float] = []

    def show(row: int, token: int | None, piece: str) -> None:
        clock.append(perf_counter())
        sys.stdout.write(piece)
        sys.stdout.flush()

    begin = run.model.config.end_ids
    generate(
        run.model,
        [begin],
        max_new_tokens=tokens,
        sampling=SAMPLING,
        seed=1,
        tokenizer=run.tokenizer,
        on_token=show,
    )
    if len(clock) > 1:
        print(f"\n\n{len(clock)} bytes, {(len(clock) - 1) / (clock[-1] - clock[0]):.0f} a second")


def closing(output: Path) -> str:
    """What there is now, and what to try next."""
    return f"""
{output} holds model/, log.csv, curves.png, config.yaml and tokens/
Try next
  longstate generate {output}/model --prompt 'def main(' --temperature 0.7 --top-p 0.95
  longstate generate {output}/model --begin --stop '\\ndef ' --seed 2
  longstate evaluate {output}/model your/code
  longstate fit your.txt                 your text, other settings: --show prints them all"""
