"""A picture of a run: losses, accuracies and bits per byte by epoch."""

import csv
import importlib.util
import io
from pathlib import Path

from longstate.models import atomic

PANELS = {"loss": "loss", "accuracy": "accuracy", "bits_per_byte": "bits per byte"}


def draw_curves(log: Path, picture: Path) -> str | None:
    """Draw the columns of a log.

    Args:
        log: `log.csv` of a run.
        picture: Where to write the PNG.

    Returns:
        None, or a sentence saying why there is no picture.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return f"{picture.name} was not drawn, as matplotlib is not installed; run `pip install 'longstate[viz]'`."
    from matplotlib.figure import Figure

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    panels = [name for name in PANELS if rows and rows[0].get(f"train_{name}")]
    figure = Figure(figsize=(5.0 * max(len(panels), 1), 3.6), layout="constrained")
    for number, name in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for part, style in (("train", "C0-"), ("val", "C1-")):
            points = [(int(row["epoch"]), float(row[f"{part}_{name}"])) for row in rows if row[f"{part}_{name}"]]
            if points:
                label = {"train": "training", "val": "validation"}[part]
                axes.plot(*zip(*points, strict=True), style, marker=".", markersize=4, label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel(PANELS[name])
        axes.grid(alpha=0.3)
        axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    atomic.write(picture, content.getvalue())
    return None
