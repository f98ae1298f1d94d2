"""Two adversarial views of each image for the price of one attack on a doubled batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mixaug._checks import check_tensor
from mixaug.attacks.attack import call_in_training


def two_views(
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Two independent adversarial views of each image, made in one attack on the doubled batch ``[x, x]``.

    ``p1 = G(x, y; f), p2 = G(x, y; f)`` of Dynamic MixCut's Algorithm 1, in one loop of forward and backward passes.

    Convention: every random quantity of the attack that is drawn per image (start, target) is drawn anew for each view.
    An attack without one gives two equal views. An attack that couples the images of a batch, such as
    :class:`~mixaug.attacks.FeatureScatter`, sees both copies.

    Args:
        attack: any ``(model, images, labels) -> images``, of this package or another.
        model: in any mode. In training mode nothing is said about it, since this is a part of training; an attack of
            another library, too, sees it in evaluation mode and cannot touch its parameters' gradients.
        images: (B, C, H, W).
        labels: (B,) class indices or (B, K) probabilities.

    Shape:
        As the attack's result, (B, C, H, W) each; the two share one storage of (2B, C, H, W).

    Returns:
        The views ``(p1, p2)``.

    Raises:
        ValueError: the attack returned another number of images than it was given.

    Example:
        >>> from mixaug.attacks import PGD
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> one, two = two_views(PGD(steps=2, targeted=True), model, torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> one.shape, torch.equal(one, two)
        (torch.Size([4, 3, 8, 8]), False)
    """
    for name, value in (("images", images), ("labels", labels)):
        if check_tensor(name, value).ndim == 0:
            raise ValueError(f"{name} must have one entry for each image, got a tensor without dimensions")
    views = call_in_training(attack, model, torch.cat([images, images]), torch.cat([labels, labels]))
    if len(views) != 2 * len(images):
        raise ValueError(f"attack must return as many images as it gets, {2 * len(images)}, got {len(views)}")
    return views[: len(images)], views[len(images) :]
