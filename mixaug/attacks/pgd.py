"""Projected gradient descent in the l-infinity ball."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mixaug.attacks._checks import check_batch, check_flag, check_int, check_number
from mixaug.attacks._state import evaluation_mode


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent in the l-infinity ball around each image.

    ``x_0 = clip(x + U(-eps, eps))``, then ``x_{t+1} = clip(project(x_t + step_size * sign(grad L(f(x_t), y))))`` where
    ``project`` is onto the ball of radius ``eps`` around ``x``, ``clip`` onto [0, 1], L the cross entropy. Madry,
    Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR 2018
    (arXiv:1706.06083); targeted with a random other class: Kurakin, Goodfellow, Bengio, ICLR 2017 (arXiv:1611.01236).

    Convention: the result is the *last* iterate of every image, not the worst one seen, and an image that is already
    misclassified is attacked like any other. Start and target are drawn per image. The loss is summed over the batch,
    so an image's gradient does not depend on the batch it is in. One forward and one backward a step, none beside.

    Args:
        eps: radius in pixel units of images in [0, 1]; 0 or more, default 8/255.
        step_size: length of a step in the same units; above 0 (0 is allowed with ``eps=0``), default 2/255.
        steps: number of steps, default 10; 0 gives the random start (or the image).
        targeted: go down the loss towards a uniformly random other class of each image instead of up the loss of its
            label; default False.
        random_start: begin at a uniform point of the ball instead of at the image; default True.
        generator: source of start and targets; default torch's own generator of the images' device. A CPU generator
            also serves images on a GPU and gives the same start there.

    Shape:
        images: (B, C, H, W) floating point in [0, 1]; labels: (B,) int64; result: as images, the same memory format.

    Returns:
        Calling the object with ``(model, images, labels)`` gives the adversarial images, detached. The model keeps the
        mode of each submodule (it runs in evaluation mode meanwhile), its buffers, ``requires_grad`` and ``.grad``.

    Raises:
        TypeError: an argument of the wrong kind, such as uint8 images.
        ValueError: a setting, shape or value out of range.
        FloatingPointError: the logits or the gradient were not finite; it names the step. Raised after the last step,
            so that no step waits for the device.

    Note:
        Images in half precision lie on so coarse a grid that eps is rounded to it (8/255 in bfloat16 by up to 6%): for
        an exact radius attack float32 images and run the model under autocast. The targeted form
        as a training adversary is that of Feature Scatter's baselines and of Dynamic MixCut.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> adversarial = PGD(eps=8 / 255, step_size=2 / 255, steps=5)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10
    targeted: bool = False
    random_start: bool = True
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_number("eps", self.eps, low=0.0, high=1.0)
        check_number("step_size", self.step_size, low=0.0 if self.eps == 0 else math.ulp(0.0), high=1.0)
        check_int("steps", self.steps, low=0)
        check_flag("targeted", self.targeted)
        check_flag("random_start", self.random_start)
        if self.generator is not None and not isinstance(self.generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {type(self.generator).__name__}")

    @property
    def name(self) -> str:
        """The attack's name in reports, such as ``pgd-20``."""
        return f"pgd-{self.steps}" + ("-targeted" if self.targeted else "")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Attacks ``model`` on a batch; see the class for shapes and errors."""
        check_batch(model, images, labels)
        if len(images) == 0:
            return images.detach().clone()
        with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad():
            return self._attack(model, images.detach().clone(), labels.clone())

    def _attack(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        low = (images - self.eps).clamp(0, 1)
        high = (images + self.eps).clamp(0, 1)
        adversarial = images
        if self.random_start:
            adversarial = torch.clamp(images + self.eps * (2 * self._uniform(images) - 1), low, high)
        finite = []  # stays on the device: reading it at each step would wait for the GPU
        direction, goal = 1, labels
        for step in range(self.steps):
            adversarial = adversarial.detach().requires_grad_()
            logits = model(adversarial)
            if step == 0:
                _check_logits(logits, labels)
                if self.targeted:
                    direction, goal = -1, self._other_classes(labels, logits.shape[1])
            loss = cross_entropy(logits.float(), goal, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            with torch.no_grad():
                finite.append(logits.isfinite().all() & gradient.isfinite().all())
                adversarial = torch.clamp(adversarial + direction * self.step_size * gradient.sign(), low, high)
        _check_finite(finite)
        return adversarial.detach()

    def _uniform(self, images: Tensor) -> Tensor:
        device = images.device if self.generator is None else self.generator.device
        noise = torch.rand(images.shape, generator=self.generator, device=device, dtype=torch.float32)
        return noise.to(images)

    def _other_classes(self, labels: Tensor, num_classes: int) -> Tensor:
        if num_classes < 2:
            raise ValueError(f"targeted needs a model with 2 classes or more, got logits of {num_classes} class")
        device = labels.device if self.generator is None else self.generator.device
        offset = torch.randint(1, num_classes, labels.shape, generator=self.generator, device=device)
        return (labels + offset.to(labels.device)) % num_classes


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must return logits of shape ({len(labels)}, classes), got {got}")
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels must lie below the model's {logits.shape[1]} classes, got {int(labels.max())}")


def _check_finite(finite: list[Tensor]) -> None:
    steps = torch.stack(finite).tolist() if finite else []
    if not all(steps):
        raise FloatingPointError(
            f"the model's logits or gradient were not finite at step {steps.index(False) + 1} of {len(steps)}"
        )
