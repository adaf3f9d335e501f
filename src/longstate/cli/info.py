"""`longstate info`: what is installed, what the machine has, and what a model is."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from longstate.cli.console import print_facts, print_json, print_table

if TYPE_CHECKING:
    from longstate.layers import SequenceLayer
    from longstate.models import BackboneConfig, ImageClassifier, LanguageModel, Model


def run_info(folder: Path | None, *, as_json: bool) -> None:
    """Print facts about this installation, or about a model.

    Args:
        folder: A saved model; the installation if None.
        as_json: As JSON.
    """
    if folder is not None:
        facts = model_facts(folder)
        print_json(facts) if as_json else print_facts(str(folder), _readable(facts))
        return
    machine, found = machine_facts(), extras()
    if as_json:
        print_json({**machine, "extras": found})
        return
    print_facts("longstate", _readable(machine))
    print_table(
        "Extras", ("extra", "brings", "state"), [(name, *_extra_row(name, parts)) for name, parts in found.items()]
    )


def machine_facts() -> dict[str, object]:
    """Versions, the instruction set of the compiled kernels, threads, memory and devices."""
    import torch

    import longstate
    from longstate.ops import _native

    return {
        "longstate": longstate.__version__,
        "compiled_kernels": _native.instruction_set() or "not built",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
        "devices": ["cpu"]
        + [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
        + (["mps"] if torch.backends.mps.is_available() else []),
    }


def memory_bytes() -> int | None:
    """Memory of the machine; None where the system does not say."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def extras() -> dict[str, dict[str, str | None]]:
    """For each extra the packages it brings, with their versions (None: not installed)."""
    found: dict[str, dict[str, str | None]] = {}
    for line in metadata.requires("longstate") or ():
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", line)
        package = re.match(r"[\w.-]+", line)
        if extra and package and package[0] != "longstate" and extra[1] != "test":
            found.setdefault(extra[1], {})[package[0]] = _version(package[0])
    return found


def model_facts(folder: Path) -> dict[str, object]:
    """Kind, size, layers, outputs, state and the facts of training of a saved model, or of a part of one."""
    from longstate import models
    from longstate.cli.trained import read_facts

    inner = folder / "model"
    folder = inner if inner.is_dir() else folder
    model = models.load(folder)
    facts = {
        **_described(model, folder),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "saved_size_bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "stream_state_bytes": state_bytes(model),
    }
    return facts | {
        name: value for name, value in read_facts(folder).items() if name not in ("parts", "text", "digests")
    }


def _described(model: "Model | SequenceLayer | ImageClassifier", folder: Path) -> dict[str, object]:
    from longstate import models

    if isinstance(model, models.Model):
        return _whole(model)
    if isinstance(model, models.LanguageModel):
        return _language(model)
    return _image_model(model) if isinstance(model, models.ImageClassifier) else _part(model, folder)


def _language(model: "LanguageModel") -> dict[str, object]:
    config = model.config
    return {
        "kind": config.kind,
        "vocabulary": config.vocabulary_size,
        "tokenizer": config.tokenizer,
        "end_ids": list(config.end_ids) or None,
        "dtype": str(model.embedding.weight.dtype).removeprefix("torch."),
        **_stack(config.backbone),
    }


def _image_model(model: "ImageClassifier") -> dict[str, object]:
    from longstate.models import VMambaConfig

    config = model.config
    inputs = [f"{config.d_input} channels"]
    if isinstance(config, VMambaConfig):
        blocks, width = " + ".join(map(str, config.depths)), config.dims[-1]
    else:
        blocks, width = str(config.n_layers), config.d_model
        inputs.append("images of {} x {}".format(*config.image_size))
    facts = {"layers": f"{blocks} blocks", "d_model": width, "d_state": config.layer.d_state}
    return {"kind": config.kind, "outputs": list(config.classes), "inputs": inputs, **facts}


def _whole(model: "Model") -> dict[str, object]:
    from longstate.cli.answers import names

    config = model.config
    return {
        "kind": config.kind,
        "outputs": list(names(config)),
        "inputs": list(config.channels or [f"{config.d_input} channels"]),
        "sampling_rate": config.sampling_rate,
        **_stack(config.backbone),
    }


def _part(part: "SequenceLayer", folder: Path) -> dict[str, object]:
    """A layer or a backbone kept by itself: its configuration is in the file, not on the layer."""
    import json

    from longstate.models import Backbone, LayerPart
    from longstate.models.serial import part_from_dict

    if isinstance(part, Backbone):
        return {"kind": "backbone", **_stack(part.config)}
    config = part_from_dict(json.loads((folder / "config.json").read_bytes())["part"])
    layer = vars(config.layer) if isinstance(config, LayerPart) else {}
    settings = {name: layer[name] for name in ("d_state", "rule", "channels", "n_ssm", "output") if name in layer}
    return {"kind": config.kind, "layer": type(part).__name__, "d_model": part.d_model, **settings}


def _stack(backbone: "BackboneConfig") -> dict[str, object]:
    layers = backbone.pattern or (backbone.layer,)
    return {
        "layers": f"{backbone.n_layers} x {' + '.join(layer.kind for layer in layers)}",
        "d_model": backbone.d_model,
        "d_state": next((vars(layer)["d_state"] for layer in layers if "d_state" in vars(layer)), None),
    }


def state_bytes(model: "SequenceLayer | ImageClassifier") -> int | None:
    """Bytes of the state of one stream: all that streaming keeps. None for a model that cannot stream."""
    from torch.utils import _pytree

    from longstate.layers import CausalLayer

    if not isinstance(model, CausalLayer):
        return None
    leaves, _ = _pytree.tree_flatten(model.initial_state(1))
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extra_row(name: str, parts: dict[str, str | None]) -> tuple[str, str]:
    brings = ", ".join(f"{package} {version or 'missing'}" for package, version in parts.items())
    return brings, "installed" if all(parts.values()) else f"pip install 'longstate[{name}]'"


def _readable(facts: dict[str, object]) -> dict[str, object]:
    return {
        name.removesuffix("_bytes").replace("_", " "): _size(value) if name.endswith("_bytes") else _listed(value)
        for name, value in facts.items()
        if value is not None
    }


def _listed(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_listed(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(str(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else value


def _size(value: object) -> str:
    if not isinstance(value, int):
        return "unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} bytes"
