"""What surrounds images: the radius at which they turn wrong, how fast logits change there, what the loss does."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug._pictures import as_bytes, as_float
from mixaug.attacks import PGD, CWLinf
from mixaug.evaluate import _costs
from mixaug.evaluate._choices import seed_of
from mixaug.evaluate._judge import Judge
from mixaug.evaluate._place import gradients_kept
from mixaug.evaluate._plan import curve_radii
from mixaug.evaluate.activation_maps import class_activation_maps
from mixaug.evaluate.lipschitz import lipschitz_constants
from mixaug.evaluate.outcomes import MapExample
from mixaug.evaluate.surface import RADII, LossSurface, loss_surface

_CURVE_STEPS = 20


def radius_curve(judge: Judge, index: Tensor, eps: float, correct: Tensor) -> dict[float, Tensor]:
    """Radius to right or wrong of the images at ``index``: under PGD-20 with the margin, then with cross-entropy.

    Each radius starts from all images that are right without an attack; only inside a radius the second attack gets
    what the first one left. Radii are those of :func:`~mixaug.evaluate._plan.curve_radii`.
    """
    curve = {}
    for radius in curve_radii(eps):
        rights = []
        judge.bar.doing(f"radius {radius:.3g}")
        for block, positions in enumerate(index.split(judge.batch_size)):
            piece = judge.journal.keep(
                f"curve {radius} {block}",
                lambda radius=radius, block=block, positions=positions: {  # type: ignore[misc]
                    "right": _left(judge, positions, radius, block, correct)
                },
                positions, judge.batch_size,
            )  # fmt: skip
            rights.append(piece["right"])
            judge.step(f"radius {radius:.3g}", _costs.RADIUS * len(positions))
        curve[radius] = torch.cat(rights)
    return curve


def _left(judge: Judge, positions: Tensor, radius: float, block: int, correct: Tensor) -> Tensor:
    """Which of the images are right under both attacks."""
    right = correct[positions].clone()
    for kind in (CWLinf, PGD):
        if not bool(right.any()):
            break
        # The same start at every radius, scaled: where no gradient leads away from it, the curve has no noise.
        generator = torch.Generator().manual_seed(seed_of(judge.seed, "curve", kind.__name__, block))
        attack = kind(eps=radius, step_size=radius / 4, steps=_CURVE_STEPS, early_stop=True, generator=generator)
        images, labels = judge.data.take(positions[right])
        with gradients_kept(judge.model):
            found = attack(judge.model, as_float(images).to(judge.device), labels.to(judge.device))
        right[right.clone()] = judge(found.detach().float().cpu(), labels, f"images at radius {radius:.3g}")[0]
    return right


def lipschitz(judge: Judge, index: Tensor, eps: float) -> Tensor:
    """The local Lipschitz constant at each of the images at ``index``."""

    def compute() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed_of(judge.seed, "lipschitz"))
        constants = []
        for images, _ in judge.data.blocks(index, judge.batch_size):
            batch = as_float(images).to(judge.device)
            constants.append(lipschitz_constants(judge.model, batch, eps, generator=generator).float().cpu())
        return {"constants": torch.cat(constants)}

    judge.bar.doing("Lipschitz constant")
    piece = judge.journal.keep("lipschitz", compute, index, eps, judge.batch_size)
    judge.step("Lipschitz constant", _costs.LIPSCHITZ * len(index))
    return piece["constants"]


def surfaces(judge: Judge, index: Tensor) -> list[LossSurface]:
    """The loss around each of the images at ``index``, at each radius."""
    found = []
    images, labels = judge.data.take(index)
    for at, image, label in zip(index.tolist(), as_float(images), labels.tolist(), strict=True):
        judge.bar.doing("loss surface")
        piece = judge.journal.keep(
            f"surface {at}",
            lambda at=at, image=image, label=label: _surface(judge, at, image, label),  # type: ignore[misc]
            RADII, judge.batch_size,
        )  # fmt: skip
        found += [
            LossSurface(losses, offsets, radius, label, at)
            for losses, offsets, radius in zip(piece["losses"], piece["offsets"], RADII, strict=True)
        ]
        judge.step("loss surface", _costs.SURFACE)
    return found


def _surface(judge: Judge, at: int, image: Tensor, label: int) -> dict[str, Tensor]:
    found = []
    for radius in RADII:
        # The same random direction for every model.
        generator = torch.Generator().manual_seed(seed_of(judge.seed, "surface", at))
        found.append(
            loss_surface(
                judge.model, image.to(judge.device), label, radius, generator=generator,
                batch_size=judge.batch_size, index=at,
            )
        )  # fmt: skip
    return {
        "losses": torch.stack([each.losses for each in found]),
        "offsets": torch.stack([each.offsets for each in found]),
    }


def maps(judge: Judge, index: Tensor) -> tuple[list[MapExample], str]:
    """Where the images at ``index`` speak for their class, and where for the predicted one; or none, and why."""
    images, labels = judge.data.take(index)

    def compute() -> dict[str, Tensor]:
        _, sure, predicted = judge(as_float(images), labels, "clean images")
        targets = torch.stack([labels, predicted], 1)
        found = class_activation_maps(judge.model, as_float(images).to(judge.device), targets.to(judge.device))
        return {"maps": as_bytes(found.float().cpu()), "predicted": predicted, "confidence": sure}

    judge.bar.doing("class activation maps")
    try:
        piece = judge.journal.keep("maps", compute, index, judge.batch_size)
    except ValueError as error:  # no layer of the model gives a map
        return [], str(error)
    finally:
        judge.step("class activation maps", _costs.MAPS * len(index))
    return [
        MapExample(as_bytes(image), label_map, predicted_map, int(label), int(predicted), float(sure))
        for image, (label_map, predicted_map), label, predicted, sure in zip(
            images, piece["maps"], labels, piece["predicted"], piece["confidence"], strict=True
        )
    ], ""
