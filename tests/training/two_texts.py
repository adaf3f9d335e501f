"""A language model on two CPU processes, started as a user would: `two_texts.py FOLDER`."""

import dataclasses
import sys
from pathlib import Path

import small_texts
import torch

from longstate.training import fit_text

ONE = dataclasses.replace(small_texts.ROWS, batch_size=4, epochs=2)
TWO = dataclasses.replace(ONE, devices=2, strategy="ddp", device="cpu", max_minutes=60.0)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    model = small_texts.language_model(dropout=0.0)
    fit_text(model, *small_texts.halves(small_texts.sentences()), TWO, folder, progress=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
