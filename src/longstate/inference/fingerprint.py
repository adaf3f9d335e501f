"""A digest that tells whether two models are one and the same."""

import hashlib
import json

from longstate.layers.base import CausalLayer
from longstate.models import CausalModel, config_to_dict, tensors


def fingerprint(model: CausalLayer) -> str:
    """SHA-256 over a model's configuration, parameters and buffers.

    Args:
        model: A causal model, or any causal layer (whose configuration is then its class).

    Returns:
        64 hexadecimal digits; equal for a model and its copy, on any device.

    Example:
        >>> import copy
        >>> from longstate import S4D
        >>> from longstate.inference import fingerprint
        >>> layer = S4D(4)
        >>> fingerprint(layer) == fingerprint(copy.deepcopy(layer))
        True
    """
    described = config_to_dict(model.config) if isinstance(model, CausalModel) else type(model).__qualname__
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(tensors.pack(model.state_dict(), {}))
    return digest.hexdigest()
