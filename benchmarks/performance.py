"""Writes the tables and pictures of docs/performance.md from what `longstate bench` measured.

    longstate bench all --threads 2 --output OUT && python benchmarks/performance.py OUT

Several folders may follow each other, each with some of the cases; the last one that has a case counts.
"""

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = ("mamba_layer", "growth", "growth_in_chunks")


def sections(folder: Path) -> tuple[str, dict[str, str]]:
    """The sentence about the machine, and the tables of every case, of one `results.md`."""
    head, *parts = re.split(r"^## (\w+)\n", (folder / "results.md").read_text(encoding="utf-8"), flags=re.M)
    return head.split("\n\n")[1].strip(), {
        name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def main(folders: list[str]) -> None:
    """Put every table between its marks."""
    page = DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    for folder in map(Path, folders):
        machine, tables = sections(folder)
        for name, body in tables.items():
            begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            if begin not in text:
                raise SystemExit(f"{page} has no mark {begin}")
            new = f"{begin}\n\n{body}\n\n{machine}\n\n{end}"
            text = text[: text.index(begin)] + new + text[text.index(end) + len(end) :]
            if name in PICTURES and (folder / f"{name}.png").is_file():
                shutil.copy(folder / f"{name}.png", DOCS / "images" / f"{name}.png")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
