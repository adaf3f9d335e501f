"""One way through the house: every import is held against the table of docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import longstate

PACKAGE = Path(longstate.__file__).parent

MAY_IMPORT = {
    "_checks": set(),
    "theory": {"_checks"},
    "ops": {"_checks"},
    "layers": {"theory", "ops", "_checks"},
    "models": {"layers", "_checks"},
    "inference": {"layers", "models", "_checks"},
    "pretrained": {"theory", "layers", "models", "_checks"},
    "data": {"_checks"},
    "training": {"models", "data", "layers.base", "_checks"},
    "diagnostics": {"theory", "ops", "layers", "models", "_checks"},
}
TOP_ROOMS = {"bench", "cli"}
CORE = {"torch", "numpy", "safetensors", "longstate", *sys.stdlib_module_names}
OPTIONAL = ("lightning", "pandas", "pyarrow", "pydantic", "typer", "rich", "yaml", "matplotlib", "scipy", "tokenizers")
# A module that subclasses a class of an optional package may import it at its top, and is itself imported lazily.
MAY_SUBCLASS: dict[str, set[str]] = {
    "cli/app.py": {"typer"},
    "training/keeper.py": {"lightning"},
    "training/run_module.py": {"lightning"},
    "training/progress.py": {"lightning", "rich"},
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> list[tuple[str, bool]]:
    """Every imported module, and whether the import stands inside a function."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module.startswith("longstate") else [module]
        found += [(name, id(node) in inside) for name in names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT.keys() | TOP_ROOMS, f"{room} is not a room of the house"
    relative = str(path.relative_to(PACKAGE))
    for name, lazy in imported(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        if top == "longstate":
            target = rest.split(".")[0]
            allowed = MAY_IMPORT.get(room)
            if allowed is None or target == room or target == "__version__":
                continue
            assert any(rest == door or rest.startswith(f"{door}.") for door in allowed), f"{room} imports {name}"
            assert target not in TOP_ROOMS, f"{room} reads the top room {target}"
        elif top not in CORE:
            assert lazy or top in MAY_SUBCLASS.get(relative, set()), f"{relative} imports {top} at its top"


def test_the_table_catches_a_wrong_import() -> None:
    tree = ast.parse("def f():\n    from longstate.training import fit\nimport scipy")
    assert imported(tree) == [("scipy", False), ("longstate.training.fit", True)]


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_using_a_layer_loads_no_optional_package() -> None:
    loaded = run(
        "import sys, torch, longstate; longstate.S4(4, 8)(torch.zeros(1, 4, 4)); longstate.models; longstate.inference;"
        f"print([name for name in {OPTIONAL!r} if name in sys.modules])"
    )
    assert loaded == "[]"


def test_the_package_and_its_help_load_no_torch() -> None:
    code = (
        "import sys, longstate; longstate.__version__; from longstate.cli.entry import main\n"
        "sys.argv = ['longstate', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    assert run(code).splitlines()[-1] == "False False"


def test_every_public_name_resolves_and_the_stub_lists_it() -> None:
    stub = (PACKAGE / "__init__.pyi").read_text()
    for name in dir(longstate):
        assert getattr(longstate, name) is not None
        assert name in stub


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'S4DD'; public names"):
        _ = longstate.S4DD
