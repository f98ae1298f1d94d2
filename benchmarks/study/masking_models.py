"""Models that hide the way of a gradient attack, made from a trained one: what the audit is shown to find.

Each keeps the trained model's predictions on clean images, but for those that rounding or noise turn.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F


class Rounded(nn.Module):
    """The input rounded to a few grey levels: a staircase has no gradient.

    Args:
        model: behind it.
        levels: steps from black to white.
    """

    def __init__(self, model: nn.Module, levels: int = 8) -> None:
        super().__init__()
        self.model = model
        self.levels = levels

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images * self.levels).round() / self.levels)


class Scaled(nn.Module):
    """Logits times a factor: large ones saturate the cross-entropy.

    Args:
        model: before it.
        factor: 1000 masks, 1 / 1000 does not.
    """

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model = model
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * self.factor


class NoisyInput(nn.Module):
    """Normal noise on the input, another one at each call.

    Args:
        model: behind it.
        deviation: of the noise.
    """

    def __init__(self, model: nn.Module, deviation: float) -> None:
        super().__init__()
        self.model = model
        self.deviation = deviation

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + self.deviation * torch.randn_like(images))


class OneHot(nn.Module):
    """The predicted class alone: ten for it, zero for the others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return 10.0 * F.one_hot(logits.argmax(1), logits.shape[1]).to(logits)


class Rippled(nn.Module):
    """A small fast ripple on every logit, ``z + height sin(frequency z)``: the slope points anywhere.

    Args:
        model: before it.
        height: of the ripple.
        frequency: waves for 2 pi units of a logit.
    """

    def __init__(self, model: nn.Module, height: float = 0.1, frequency: float = 2000.0) -> None:
        super().__init__()
        self.model = model
        self.height = height
        self.frequency = frequency

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits + self.height * torch.sin(self.frequency * logits)


class Compressed(nn.Module):
    """JPEG in front: the image leaves the graph.

    Args:
        model: behind it.
        quality: 1 to 100.
    """

    def __init__(self, model: nn.Module, quality: int = 75) -> None:
        super().__init__()
        self.model = model
        self.quality = quality

    def forward(self, images: Tensor) -> Tensor:
        pictures = [self._compressed(picture) for picture in images.detach().cpu()]
        return self.model(torch.stack(pictures).to(images))

    def _compressed(self, picture: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as v2

        file = io.BytesIO()
        v2.to_pil_image(picture).save(file, "JPEG", quality=self.quality)
        return v2.pil_to_tensor(Image.open(file)).float() / 255


class Decoy(nn.Module):
    """The gradient of another function: the true logits are cut off, a tiny linear term has the only slope.

    Args:
        model: whose predictions it has.
        seed: of the linear term.
    """

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.seed = seed

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images.detach()).detach()
        flat = images.flatten(1)
        weights = torch.randn(flat.shape[1], logits.shape[1], generator=torch.Generator().manual_seed(self.seed))
        return logits + 1e-6 * flat @ weights.to(flat)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Reversed(nn.Module):
    """A backward pass that gives the negative gradient: attacks make the model surer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(_Turned.apply(images))


class NoNumber(nn.Module):
    """A term of value 0 whose gradient is not a number."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        nothing = (images - images.detach()).abs().sqrt().flatten(1).sum(1, keepdim=True)
        return self.model(images) + nothing


class Confident(nn.Module):
    """Logits sharpened by a temperature of the image's own: by its margin, so that every image saturates.

    Args:
        model: before it.
        strength: of the sharpening.
    """

    def __init__(self, model: nn.Module, strength: float = 400.0) -> None:
        super().__init__()
        self.model = model
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        two = logits.topk(2, 1).values
        return self.strength * logits / (two[:, :1] - two[:, 1:]).detach().clamp_min(1e-3)
