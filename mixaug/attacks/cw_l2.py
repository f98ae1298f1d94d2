"""Carlini and Wagner's l2 attack: the smallest change that fools, with a search for the weight of the fooling."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from mixaug._checks import ABOVE_ZERO, MAX_COUNT, check_field, check_flag, check_generator, check_int, check_number
from mixaug.attacks.attack import Attack, Goal, parts
from mixaug.attacks.objectives import margin
from mixaug.attacks.steps import CUT_OFF, Adam, Health, Point, follow_gradient


@dataclass(frozen=True)
class CWL2(Attack):
    """Carlini and Wagner's l2 attack: the smallest l2 change of each image that fools the model.

    Minimises ``||x' - x||^2 + c max(0, z_y - max_{j != y} z_j + confidence)`` over w with
    ``x' = (tanh(w) + 1) / 2`` by Adam, which keeps x' in [0, 1] without clipping; c is found per image by a search that
    multiplies it by 10 until the attack succeeds and then halves the interval. Carlini, Wagner, "Towards evaluating the
    robustness of neural networks", IEEE S&P 2017 (arXiv:1608.04644), section VI-A.

    Convention: the *nearest* fooling iterate of all steps is returned, per image; an image that was never fooled comes
    back unchanged. The radius is not bounded unless ``eps`` is given, so a report says how many images could be moved
    over the border, and their distances say how far it is. One forward and one backward a step,
    ``steps * search_steps`` in all.

    Args:
        steps: Adam's steps for each weight c, default 50 (the paper's attack takes up to 10,000).
        step_size: Adam's rate in the space of w; above 0, default 0.01.
        search_steps: weights c tried, default 9.
        confidence: margin by which the logits must be wrong; 0 or more, default 0.
        initial_const: first c; above 0, default 0.001.
        targeted: towards a random other class of each image, or towards ``targets=`` of the call; default False.
        generator: source of random targets; default torch's own.
        eps: largest l2 distance that counts as success, in units of images in [0, 1]; default None: any.
        abort_early: an image whose loss has not fallen by 0.01% in a tenth of the steps takes no further part in this
            weight's steps, which end when no image is left; a GPU is waited for ten times a weight. Default True.
        batch_size: most images in one pass of the model; default all.

    Shape:
        images: (B, C, H, W) floating point in [0, 1]; labels: (B,) int64; result: as images.

    Returns:
        Adversarial images, detached; the model is left as it was.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a setting, shape or value out of range.
        FloatingPointError: logits or gradient were not finite; raised after the weight's last step, naming the step.

    Note:
        The authors stop the whole batch when its summed loss no longer falls; here each image stops for itself, so that
        it does not depend on the batch. With ``abort_early=False`` the two are the same. Computed in float32 whatever
        the images' precision; rounding the result to half precision can undo an attack that succeeded narrowly.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).eval()
        >>> images = torch.rand(4, 3, 8, 8)
        >>> labels = model(images).argmax(1)
        >>> adversarial = CWL2(steps=50)(model, images, labels)
        >>> bool((model(adversarial).argmax(1) != labels).all())
        True
    """

    steps: int = 50
    step_size: float = 0.01
    search_steps: int = 9
    confidence: float = 0.0
    initial_const: float = 0.001
    targeted: bool = False
    generator: torch.Generator | None = None
    _: KW_ONLY
    eps: float | None = None
    abort_early: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_field(self, "steps", check_int, 1, MAX_COUNT)
        check_field(self, "step_size", check_number, ABOVE_ZERO)
        check_field(self, "search_steps", check_int, 1, MAX_COUNT)
        check_field(self, "confidence", check_number, 0.0)
        check_field(self, "initial_const", check_number, ABOVE_ZERO)
        check_field(self, "targeted", check_flag)
        check_generator(self.generator)
        check_field(self, "eps", check_number, 0.0, optional=True)
        check_field(self, "abort_early", check_flag)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)

    @property
    def name(self) -> str:
        """The attack's name in reports, ``cw-l2``."""
        return "cw-l2" + ("-targeted" if self.targeted else "")

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        results = []
        for part in parts(len(images), self.batch_size):
            search = _Search(self, model, images[part], part, goal)
            results.append(search.run())
        return torch.cat(results)


class _Search:
    """The search for each image's weight c, and the nearest fooling image seen on the way."""

    def __init__(self, attack: CWL2, model: nn.Module, images: Tensor, part: slice, goal: Goal) -> None:
        self._attack = attack
        self._model = model
        self._images = images
        self._part = part
        self._goal = goal
        self._wide = images if images.dtype == torch.float64 else images.float()
        # 0.999999 keeps black and white pixels at a finite w.
        self._centre = ((2 * self._wide - 1) * 0.999999).atanh()
        self._origin = _to_images(self._centre)
        self._best = self._wide.clone()
        self._depends = False
        self._distance = torch.full((len(images),), math.inf, dtype=self._wide.dtype, device=images.device)

    def run(self) -> Tensor:
        count, attack = len(self._images), self._attack
        # On the CPU in float64: it is read once a weight, after tens of steps.
        const = torch.full((count,), attack.initial_const, dtype=torch.float64)
        low, high = torch.zeros_like(const), torch.full_like(const, math.inf)
        for search_step in range(attack.search_steps):
            if search_step == attack.search_steps - 1 and attack.search_steps >= 10:
                const = high.clamp(max=1e10)  # once more where it is known to work
            found = self._descend(const).cpu()
            high = torch.where(found, const, high)
            low = torch.where(found, low, const)
            const = torch.where(high.isinf(), const * 10, (low + high) / 2)
        if attack.eps is None:
            best = self._best
        else:
            near = (self._distance <= attack.eps).view(-1, 1, 1, 1)
            best = torch.where(near, self._best, self._wide)
        return best.to(self._images)

    def _descend(self, const: Tensor) -> Tensor:
        """Adam's steps for the weights ``const``; which images were fooled on the way."""
        attack = self._attack
        weight = const.to(self._wide)
        start = torch.zeros_like(self._centre)
        adam = Adam(start, attack.step_size)
        found = torch.zeros(len(const), dtype=torch.bool, device=start.device)
        active = torch.ones_like(found)
        previous = torch.full_like(weight, math.inf)
        check_every = math.ceil(attack.steps / 10)

        def evaluate(change: Tensor) -> tuple[Tensor, Tensor]:
            images = _to_images(self._centre + change)
            logits = self._goal.logits(self._model(images.to(self._images)), len(images))
            self._check_depends(logits, change)
            lead = self._goal.direction * margin(logits, self._goal.classes()[self._part])  # above 0 where it fools
            short = (attack.confidence - lead).clamp_min(0)
            return weight * short + _squares(images - self._origin), logits

        def move(point: Point) -> Tensor | None:
            nonlocal found, active, previous
            fooling = self._fooling(point.logits) & active
            found = found | fooling
            self._note(_to_images(self._centre + point.variable), fooling)
            if attack.abort_early and point.step % check_every == 0:
                active = active & (point.losses <= 0.9999 * previous)
                previous = point.losses.detach()
                if not active.any():
                    return None
            return point.variable - adam.step(point.gradient)

        health = Health()
        follow_gradient(start, evaluate, move, attack.steps, health)
        health.report()
        return found

    def _check_depends(self, logits: Tensor, change: Tensor) -> None:
        """Once a batch: the distance alone would give a gradient, so the engine cannot see a model that is cut off."""
        if self._depends:
            return
        total = logits.sum()
        if (
            not total.requires_grad
            or torch.autograd.grad(total, change, retain_graph=True, allow_unused=True)[0] is None
        ):
            raise ValueError(CUT_OFF)
        self._depends = True

    def _fooling(self, logits: Tensor) -> Tensor:
        wanted = self._goal.classes()[self._part]
        handicap = torch.full_like(logits[:, :1], self._goal.direction * self._attack.confidence)
        return self._goal.reached(logits.scatter_add(1, wanted[:, None], handicap), wanted)

    def _note(self, images: Tensor, fooling: Tensor) -> None:
        distance = _squares(images - self._wide).sqrt()
        better = fooling & (distance < self._distance)
        self._best = torch.where(better.view(-1, 1, 1, 1), images, self._best)
        self._distance = torch.where(better, distance, self._distance)


def _to_images(w: Tensor) -> Tensor:
    return w.tanh() * 0.5 + 0.5


def _squares(change: Tensor) -> Tensor:
    return change.flatten(1).square().sum(1)
