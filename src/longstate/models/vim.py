"""The body of Vim: patches of an image in a row, read both ways by every block."""

import math

import torch
from torch import Tensor, nn

from longstate._checks import InputError
from longstate.layers import BidirectionalMamba
from longstate.layers.dropout import Dropout
from longstate.layers.norm import build_norm
from longstate.models.build_layer import arguments
from longstate.models.image_config import VimConfig
from longstate.models.vision_blocks import DropPath, GridConvolution
from longstate.models.vmamba import drop_rates


class VimBody(nn.Module):
    """Patches, a class token among them, learned positions, a stack of bidirectional blocks, and a norm.

        x_0 = [p_1 .. token .. p_n] + e;    x_i = x_{i-1} + drop(mamba_i(norm_i(x_{i-1}))),    h = norm(x_n)[token]

    Args:
        config: Of the model; its statistics and classes are not looked at.

    Source:
        Zhu et al.: Vision Mamba, arXiv 2401.09417, section 3.2 and algorithm 1.

    Example:
        >>> import torch
        >>> from longstate.models import VimBody, VimConfig
        >>> body = VimBody(VimConfig(classes=("cat", "dog"), image_size=(32, 48), d_model=8, n_layers=1))
        >>> body(torch.rand(2, 32, 48, 3)).shape
        torch.Size([2, 8])
    """

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        self.d_model = config.d_model
        self.image_size = config.image_size
        self.float32_residual = config.float32_residual
        rows, columns = config.patches
        self.token_place = None if config.pooling == "mean" else 0
        if config.pooling == "middle_token":
            self.token_place = rows * columns // 2
        self.patches = GridConvolution(
            config.d_input, self.d_model, config.patch_size, stride=config.stride or config.patch_size
        )
        _initialise(self.patches)
        self.token = None if self.token_place is None else nn.Parameter(torch.zeros(self.d_model))
        length = rows * columns + (self.token is not None)
        self.positions = nn.Parameter(torch.zeros(length, self.d_model))
        for learned in (self.token, self.positions):
            if learned is not None:
                nn.init.trunc_normal_(learned, std=0.02)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config, rate) for rate in drop_rates(config.drop_path, config.n_layers))
        self.norm = build_norm(config.norm, self.d_model, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, d_model) of images (batch, height, width, d_input).

        Raises:
            InputError: If the images are not of `image_size`.
        """
        if tuple(x.shape[1:3]) != tuple(self.image_size):
            raise InputError(
                f"`x` holds images of {x.shape[1]} x {x.shape[2]}, but {self.image_size[0]} x {self.image_size[1]} are "
                "needed, since every patch has a learned position; resize them."
            )
        x = self.patches(x).flatten(1, 2)
        if self.token is not None and self.token_place is not None:
            token = self.token.expand(len(x), 1, -1)
            x = torch.cat([x[:, : self.token_place], token, x[:, self.token_place :]], dim=1)
        x = self.dropout(x + self.positions)
        if self.float32_residual:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).to(self.positions.dtype)
        return x.mean(1) if self.token_place is None else x[:, self.token_place]


class _Block(nn.Module):
    """The mixer in a pre-norm residual branch whose sum may be wider than the parameters."""

    def __init__(self, config: VimConfig, drop_path: float) -> None:
        super().__init__()
        self.norm = build_norm(config.norm, config.d_model, eps=config.norm_eps)
        self.mixer = BidirectionalMamba(config.d_model, **arguments(config.layer), halve=config.halve)
        self.drop_path = DropPath(drop_path)
        with torch.no_grad():
            self.mixer.out_proj.weight.div_(math.sqrt(config.n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """One branch over (batch, length, d_model)."""
        h = self.norm(x).to(self.mixer.out_proj.weight.dtype)
        return x + self.drop_path(self.mixer(h))


def _initialise(patches: nn.Conv2d) -> None:
    """Patches of unit variance become features of unit variance, without offset."""
    nn.init.normal_(patches.weight, std=patches.weight[0].numel() ** -0.5)
    if patches.bias is not None:
        nn.init.zeros_(patches.bias)
