"""The README keeps its word: its example runs, its links and its picture are there."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_example_trains_and_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    less = {"epochs=30, crop=800": "epochs=1, crop=50", 'data.read("watch")': 'data.read("watch").select(range(4))'}
    for written, run in less.items():
        assert written in code
        code = code.replace(written, run)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    logits = names["logits"]
    assert isinstance(logits, torch.Tensor)
    assert logits.isfinite().all()
    assert (tmp_path / "runs/readme/model/model.safetensors").is_file()


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert targets
    assert [target for target in targets if not (README.parent / target).is_file()] == []
