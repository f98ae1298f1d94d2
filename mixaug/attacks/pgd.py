"""Projected gradient descent and its relatives: FGSM (one step) and Carlini-Wagner in l-infinity (the margin)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_choice, check_field, check_flag, check_generator, check_int
from mixaug.attacks.attack import (
    BATCH_NORMS,
    Attack,
    Goal,
    check_objective,
    check_radius,
    check_step_size,
    start_in_ball,
)
from mixaug.attacks.objectives import cross_entropy, margin
from mixaug.attacks.steps import Objective, climb


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent in the l-infinity or l2 ball around each image.

    ``x_0 = clip(x + U(-eps, eps))``, then ``x_{t+1} = clip(project(x_t + step_size * sign(grad L(f(x_t), y))))`` where
    ``project`` is onto the ball of radius ``eps`` around ``x``, ``clip`` onto [0, 1], L the cross entropy. Madry,
    Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR 2018
    (arXiv:1706.06083); targeted with a random other class: Kurakin, Goodfellow, Bengio, ICLR 2017 (arXiv:1611.01236).
    In l2 the start is uniform in the ball and the sign is replaced by ``grad / ||grad||``.

    Convention: the result is the *last* iterate of every image, not the worst one seen, and an image that is already
    misclassified is attacked like any other (unless ``early_stop``). Start and target are drawn per image. The loss is
    summed over the batch, so an image's gradient does not depend on the batch it is in. One forward and one backward a
    step, none beside.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        step_size: length of a step in the same units; above 0 (0 is allowed with ``eps=0``), default 2/255.
        steps: number of steps, default 10; 0 gives the random start (or the image).
        targeted: go down the loss towards a uniformly random other class of each image, or towards ``targets=`` of the
            call, instead of up the loss of its label; default False.
        random_start: begin at a uniform point of the ball instead of at the image; default True.
        generator: source of start and targets; default torch's own generator of the images' device. A CPU generator
            also serves images on a GPU and gives the same start there.
        norm: ``"linf"`` (default) or ``"l2"``; eps and step_size are lengths in it.
        objective: the loss, of :mod:`mixaug.attacks.objectives` or any ``(logits, labels) -> (B,)``; default
            cross entropy.
        early_stop: an image that is misclassified (or at its target) stays as it is and costs nothing from then on;
            the number of images left is read at each step, so a GPU is waited for. Default False.
        batch_size: most images in one pass of the model; None (default) for all. Start and targets do not depend on it.
        batch_norm: ``"still"`` (default): batch norms use their running statistics, which do not move. ``"moves"``:
            each keeps its mode, so that those in training mode use batch statistics and update the running ones.

    Shape:
        images: (B, C, H, W) floating point in [0, 1]; labels: (B,) int64 or, untargeted and for an objective that
        takes them, (B, K) probabilities; result: as images, the same memory format.

    Returns:
        Calling the object with ``(model, images, labels)`` gives the adversarial images, detached. The model keeps the
        mode of each submodule (it runs in evaluation mode meanwhile), its buffers, ``requires_grad`` and ``.grad``.

    Raises:
        TypeError: an argument of the wrong kind, such as uint8 images.
        ValueError: a setting, shape or value out of range. Values on the CPU are always looked at, those on another
            device at the first call of the object.
        FloatingPointError: the logits or the gradient were not finite; it names the step. Raised after the last step,
            so that no step waits for the device.

    Note:
        Images in half precision lie on so coarse a grid that eps is rounded to it (8/255 in bfloat16 by up to 6%): for
        an exact radius attack float32 images and run the model under autocast. The targeted form
        as a training adversary is that of Feature Scatter's baselines and of Dynamic MixCut.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).eval()
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> adversarial = PGD(eps=8 / 255, step_size=2 / 255, steps=5)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255 + 1e-6)
        True
        >>> attack = PGD(eps=0.5, step_size=0.1, steps=5, targeted=True, norm="l2")
        >>> adversarial = attack(model, images, labels, targets=torch.tensor([9, 9, 9, 9]))
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    targeted: bool = False
    random_start: bool = True
    generator: torch.Generator | None = None
    _: KW_ONLY
    norm: str = "linf"
    objective: Objective = field(default=cross_entropy)
    early_stop: bool = False
    batch_size: int | None = None
    batch_norm: str = "still"

    def __post_init__(self) -> None:
        check_radius(self)
        check_step_size(self)
        check_field(self, "steps", check_int, 0, MAX_COUNT)
        check_field(self, "targeted", check_flag)
        check_field(self, "random_start", check_flag)
        check_generator(self.generator)
        check_field(self, "early_stop", check_flag)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)
        check_field(self, "batch_norm", check_choice, BATCH_NORMS)
        check_objective(self.objective)

    @property
    def name(self) -> str:
        """The attack's name in reports, such as ``pgd-20``, ``pgd-20-l2``, ``pgd-dlr-20`` or ``pgd-10-targeted``."""
        objective = "" if self.objective is cross_entropy else f"-{getattr(self.objective, '__name__', 'custom')}"
        return f"pgd{objective}-{self.steps}{_suffix(self.norm, self.targeted)}"

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        return climb(
            model,
            images,
            start_in_ball(images, self.eps, self.norm, self.generator) if self.random_start else images,
            goal,
            eps=self.eps,
            norm=self.norm,
            step_size=self.step_size,
            steps=self.steps,
            objective=self.objective,
            early_stop=self.early_stop,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class CWLinf(PGD):
    """Carlini and Wagner's margin climbed by PGD in the l-infinity ball: the "CW-k" of adversarial training papers.

    ``x_{t+1} = clip(project(x_t + step_size * sign(grad(max_{j != y} z_j - z_y))))``, z the logits of ``x_t``. Carlini,
    Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017 (arXiv:1608.04644) for the margin;
    Madry et al., ICLR 2018 (arXiv:1706.06083) for this use of it.

    Convention: as :class:`PGD`, of which it is the one with 20 steps and the objective ``margin``. The margin is not
    cut at 0, so an image goes on to be more misclassified.

    Args:
        eps, step_size, steps, targeted, random_start, generator, norm, early_stop, batch_size, batch_norm: as
            :class:`PGD`; ``steps`` defaults to 20.
        objective: default :func:`~mixaug.attacks.objectives.margin`.

    Shape:
        As :class:`PGD`; labels (B,) int64 only.

    Returns:
        As :class:`PGD`.

    Raises:
        TypeError, ValueError, FloatingPointError: as :class:`PGD`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).eval()
        >>> attack = CWLinf(eps=8 / 255, step_size=2 / 255, steps=20)
        >>> attack.name, attack(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1])).shape
        ('cw-20', torch.Size([2, 3, 8, 8]))
    """

    steps: int = 20
    objective: Objective = field(default=margin, kw_only=True)

    @property
    def name(self) -> str:
        """The attack's name in reports, such as ``cw-20``."""
        return f"cw-{self.steps}{_suffix(self.norm, self.targeted)}"


@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method: one step of length eps.

    ``x' = clip(x + eps sign(grad L(f(x), y)))``. Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial
    examples", ICLR 2015 (arXiv:1412.6572). With ``random_start`` and a ``step_size`` of 1.25 eps: Wong, Rice, Kolter,
    "Fast is better than free", ICLR 2020 (arXiv:2001.03994).

    Convention: every image is attacked, also a misclassified one; one forward and one backward.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        targeted: down the loss of a random other class (or of ``targets=``) instead of up that of the label; default
            False.
        random_start: begin at a uniform point of the ball; default False.
        generator: source of start and targets; default torch's own.
        step_size: length of the step; default None: eps.
        norm: ``"linf"`` (default) or ``"l2"``, where it is the fast gradient method.
        objective: as for :class:`PGD`, default cross entropy.
        batch_size: most images in one pass of the model; default all.
        batch_norm: ``"still"`` (default) or ``"moves"``, as for :class:`PGD`.

    Shape:
        As :class:`PGD`.

    Returns:
        As :class:`PGD`.

    Raises:
        TypeError, ValueError, FloatingPointError: as :class:`PGD`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).eval()
        >>> images = torch.full((2, 3, 8, 8), 0.5)
        >>> change = FGSM(eps=0.1)(model, images, torch.tensor([0, 1])) - images
        >>> torch.allclose(change.abs(), torch.tensor(0.1))
        True
    """

    eps: float = 8 / 255
    targeted: bool = False
    random_start: bool = False
    generator: torch.Generator | None = None
    _: KW_ONLY
    step_size: float | None = None
    norm: str = "linf"
    objective: Objective = field(default=cross_entropy)
    batch_size: int | None = None
    batch_norm: str = "still"

    def __post_init__(self) -> None:
        check_radius(self)
        check_step_size(self)
        check_field(self, "batch_size", check_int, 1, MAX_COUNT, optional=True)
        for name in ("targeted", "random_start"):
            check_field(self, name, check_flag)
        check_generator(self.generator)
        check_objective(self.objective)
        check_field(self, "batch_norm", check_choice, BATCH_NORMS)

    @property
    def name(self) -> str:
        """The attack's name in reports, ``fgsm``."""
        return f"fgsm{_suffix(self.norm, self.targeted)}"

    def _as_pgd(self) -> PGD:
        return PGD(
            self.eps,
            self.eps if self.step_size is None else self.step_size,
            1,
            self.targeted,
            self.random_start,
            self.generator,
            norm=self.norm,
            objective=self.objective,
            batch_size=self.batch_size,
            batch_norm=self.batch_norm,
        )

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        return self._as_pgd()._attack(model, images, goal)


def _suffix(norm: str, targeted: bool) -> str:
    return ("" if norm == "linf" else f"-{norm}") + ("-targeted" if targeted else "")
