"""ImageClassifier: images in, logits of their classes out, by a VMamba or a Vim."""

from torch import Tensor, nn

from longstate._checks import InputError
from longstate.models.image_config import ImageConfig, VimConfig
from longstate.models.input import register_affine
from longstate.models.vim import VimBody
from longstate.models.vmamba import VMambaBody


class ImageClassifier(nn.Module):
    """Logits of the classes of images, channels last.

        logits = W h + b,    h = body((x - shift) / scale),    body a VMamba or a Vim, as the configuration says

    With statistics in its configuration it takes raw images, without them what training had. A VMamba takes images of
    any size that leaves a pixel at its last stage, a Vim only those of its `image_size`. There is no order of pixels
    that could be streamed, so there is no state.

    Args:
        config: What the model is: a `VMambaConfig` or a `VimConfig`.

    Raises:
        InputError: If it is neither, or a value in it is not usable.

    Source:
        Liu et al.: VMamba, arXiv 2401.10166; Zhu et al.: Vision Mamba, arXiv 2401.09417.

    Example:
        >>> import torch
        >>> from longstate import ImageClassifier
        >>> from longstate.models import VMambaConfig
        >>> config = VMambaConfig(classes=("cat", "dog", "owl"), dims=(8, 16), depths=(1, 1))
        >>> model = ImageClassifier(config).eval()
        >>> logits = model(torch.rand(2, 32, 48, 3))
        >>> logits.shape, config.classes[int(logits[0].argmax())] in config.classes
        (torch.Size([2, 3]), True)
    """

    shift: Tensor | None
    scale: Tensor | None

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        if not isinstance(config, ImageConfig):
            raise InputError(
                f"the configuration is a {type(config).__name__}, but one of an image model is needed; "
                "give a VMambaConfig or a VimConfig."
            )
        self.config = config
        register_affine(self, config.statistics)
        self.body = VimBody(config) if isinstance(config, VimConfig) else VMambaBody(config)
        self.head = nn.Linear(self.body.d_model, len(config.classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, height, width, d_input).

        Raises:
            InputError: If the images have other channels, are too small, or hold integers.
        """
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the head sees of images: (batch, d_model)."""
        if x.dim() != 4 or x.shape[-1] != self.config.d_input:
            raise InputError(
                f"`x` has shape {tuple(x.shape)}, but (batch, height, width, {self.config.d_input}) is needed; "
                "put the channels last with `x.movedim(1, -1)`, and one image into a batch with `x[None]`."
            )
        if not x.dtype.is_floating_point:
            raise InputError(
                f"`x` is {x.dtype}, but a floating type is needed; call `x.float()`, and divide by 255 if training did."
            )
        if self.shift is not None and self.scale is not None:
            x = (x - self.shift) / self.scale
        return self.body(x.to(self.head.weight.dtype))
