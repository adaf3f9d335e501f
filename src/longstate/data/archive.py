"""What the UCR and UEA archives have in common: a TRAIN file with a TEST file beside it."""

from pathlib import Path

from longstate.data.recording import existing_file


def train_test_pair(path: str | Path) -> list[tuple[Path, str | None]]:
    """`X_TRAIN.ts` and the `X_TEST.ts` beside it with their splits; any other file alone, without a split."""
    path = existing_file(path)
    if path.stem.endswith("_TRAIN"):
        test = path.with_name(path.stem.removesuffix("TRAIN") + "TEST" + path.suffix)
        if test.is_file():
            return [(path, "train"), (existing_file(test), "test")]
    return [(path, None)]
