"""Whether a model was made for normalised images, though it is given images in [0, 1]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixaug._pictures import as_float

if TYPE_CHECKING:
    from mixaug.evaluate._judge import Judge

_IMAGES = 256
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_POINTS, _SIGMAS = 0.1, 4.0


def expects_normalised(judge: Judge, correct: Tensor) -> str | None:
    """A sentence if the model does much better on normalised images; None if it does not.

    Up to 256 images, evenly spread over the data, are given to it as they are, and as ``(x - mean) / sd`` with the mean
    and standard deviation of the images themselves and with those of ImageNet. It is said where accuracy rises by more
    than 10 points and by more than 4 standard deviations of that difference: false for 1 model of 15,000. So 17 images
    are the fewest.

    Args:
        judge: of the model.
        correct: (n,) right or wrong of all images as they are.
    """
    # Spread over the data: the first ones of a folder are of one class, which a change of brightness may favour.
    count = min(_IMAGES, len(judge.data))
    index = torch.arange(count) * len(judge.data) // count
    images, labels = judge.data.take(index)
    images = as_float(images)
    channels = images.shape[1]
    judge.draw("normalised")
    own = (images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0).clamp_min(1e-3))
    choices = {"of the data set": own}
    if channels == 3:
        imagenet = torch.tensor(_IMAGENET, dtype=torch.float32)
        choices["of ImageNet"] = (imagenet[0], imagenet[1])
    plain = correct[index]
    best, found = _POINTS, None
    for whose, (mean, deviation) in choices.items():
        normalised = (images - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
        try:
            right = judge(normalised, labels, "normalised images")[0]
        except Exception:  # it takes no values outside of [0, 1]: it was not made for normalised images
            continue
        gained, lost = int((right & ~plain).sum()), int((plain & ~right).sum())
        change = (gained - lost) / len(images)
        if change > best and gained - lost > _SIGMAS * math.sqrt(gained + lost):
            best = change
            before, after = (100 * float(each.double().mean()) for each in (plain, right))
            found = (
                f"the model seems to expect normalised images: it is right on {before:.1f}% of {len(images)} images in "
                f"[0, 1], and on {after:.1f}% after (x - mean) / sd with mean and standard deviation {whose}; put the "
                "normalisation into the model, as its first layer"
            )
    return found
