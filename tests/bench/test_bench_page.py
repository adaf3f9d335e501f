"""The page of figures has a table for every case, and its pictures are there."""

import re
from pathlib import Path

from longstate.bench import CASES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "performance.md").read_text(encoding="utf-8")


def test_every_case_has_its_table() -> None:
    for case in CASES.values():
        begin, end = f"<!-- {case.name} -->", f"<!-- end of {case.name} -->"
        assert begin in PAGE, case.name
        table = PAGE.partition(begin)[2].partition(end)[0]
        assert f"| {case.axis} | side |" in table, case.name
        assert {f"{size:,}" for size in case.sizes} <= set(re.findall(r"^\| ([\d,]+) \|", table, re.M)), case.name


def test_every_link_leads_somewhere() -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", PAGE)]
    assert targets
    assert [target for target in targets if not (DOCS / target).is_file()] == []
