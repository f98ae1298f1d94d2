"""The loss around one image, on the plane of an attack's direction and a random one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixaug._checks import ABOVE_ZERO, MAX_COUNT, check_int, check_length, clipped
from mixaug._model_state import check_logits, check_model, evaluation_mode
from mixaug.attacks import PGD, cross_entropy
from mixaug.attacks.attack import signs_like
from mixaug.evaluate._place import gradients_kept

#: A side of the grid at most: its points are a million.
_MOST_POINTS = 1001

#: The radii of a report's figure.
RADII = (0.05, 0.1, 0.15)


@dataclass(frozen=True)
class SurfacePlane:
    """Two orthogonal directions from an image, each with a largest entry of 1 in size.

    Args:
        attack: (C, H, W), from the image towards its adversarial image.
        across: (C, H, W), random, orthogonal to ``attack``.
    """

    attack: Tensor
    across: Tensor


@dataclass(frozen=True)
class LossSurface:
    """The loss on a grid around one image.

    Args:
        losses: (G, G) float32; row i is ``offsets[i]`` along the random direction, column j is ``offsets[j]`` along the
            attack's.
        offsets: (G,) float32, from ``-radius`` to ``radius``, 0 in the middle.
        radius: of the attack and of the grid, in pixel units of images in [0, 1].
        label: the image's class.
        index: the image's position in its data set; -1: not known.

    Example:
        >>> LossSurface(torch.tensor([[0.0, 0, 1], [0, 1, 2], [0, 0, 1]]), torch.tensor([-0.1, 0, 0.1]), 0.1, 3).rise
        tensor([[-1., -1.,  0.],
                [-1.,  0.,  1.],
                [-1., -1.,  0.]])
    """

    losses: Tensor
    offsets: Tensor
    radius: float
    label: int
    index: int = -1

    @property
    def rise(self) -> Tensor:
        """(G, G): the loss less that of the image itself."""
        return self.losses - self.losses[self._middle, self._middle]

    @property
    def attack_rise(self) -> float:
        """The rise at the attack's end: ``radius`` along its direction, none along the random one."""
        return float(self.rise[self._middle, -1])

    @property
    def random_rise(self) -> float:
        """The rise along the random direction, mean of its two ends."""
        return float((self.rise[0, self._middle] + self.rise[-1, self._middle]) / 2)

    @property
    def _middle(self) -> int:
        return len(self.offsets) // 2


def loss_surface(
    model: nn.Module,
    image: Tensor,
    label: int,
    radius: float = RADII[0],
    *,
    points: int = 25,
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    index: int = -1,
) -> LossSurface:
    """The loss around an image on the plane of an attack's direction u and a random direction v.

    ``L(f(clip(x + a u + b v)), y)`` for a and b from ``-radius`` to ``radius``, with ``u = (x_adv - x) / ||x_adv -
    x||_inf``, v uniform signs made orthogonal to u and scaled to ``||v||_inf = 1``, and ``clip`` onto [0, 1]. As the
    loss surfaces of "Dynamic MixCut"; with random signs as Qin et al., "Adversarial robustness through local
    linearization", NeurIPS 2019 (arXiv:1907.02610).

    Convention: the attack has the surface's own radius, so ``a = radius, b = 0`` is its adversarial image. Points are
    clipped because a model never meets pixels outside of [0, 1]; where clipping acts, the plane is bent.

    Args:
        model: gives logits (B, K); it runs in evaluation mode and is left as it was.
        image: (C, H, W) floating point in [0, 1], on the model's device.
        label: its class.
        radius: of attack and grid, above 0 and at most 1, default 0.05.
        points: of the grid along each direction, odd so that the image is on it, at least 3; default 25.
        attack: ``(model, images, labels) -> adversarial images``; default PGD with 20 steps of a quarter of ``radius``.
        objective: the loss, ``(logits, labels) -> (B,)``; default cross entropy.
        generator: source of the random direction and of the default attack's start; default torch's own.
        batch_size: grid points in one pass of the model, default 256.
        index: the image's position in its data set, for the record.

    Returns:
        The surface, on the CPU.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; an attack that does not move the image.
        FloatingPointError: losses that are not finite.

    Note:
        The paper does not say how it scales the random direction nor whether it clips; both are ours.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> surface = loss_surface(model, torch.rand(3, 2, 2), label=1, radius=0.1, points=5)
        >>> surface.losses.shape, float(surface.rise[2, 2])
        (torch.Size([5, 5]), 0.0)
    """
    radius, points, batch_size = _check(model, image, radius, points, batch_size)
    label = int(label)
    if attack is None:
        attack = PGD(eps=radius, step_size=radius / 4, steps=20, generator=generator)
    with evaluation_mode(model):
        plane = sample_plane(model, image, label, attack, generator)
        offsets = torch.linspace(-radius, radius, points, dtype=torch.float32)
        losses = plane_losses(model, image, label, plane, offsets, objective, batch_size)
    return LossSurface(losses, offsets, float(radius), label, index)


def sample_plane(
    model: nn.Module,
    image: Tensor,
    label: int,
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor],
    generator: torch.Generator | None = None,
) -> SurfacePlane:
    """The direction of an attack on the image, and a random one orthogonal to it.

    Raises:
        ValueError: the attack does not move the image.

    Example:
        >>> def brighter(model, images, labels):
        ...     return images + 0.1
        >>> plane = sample_plane(nn.Identity(), torch.full((1, 2, 2), 0.5), 0, brighter)
        >>> bool((plane.attack * plane.across).sum().abs() < 1e-5)
        True
    """
    clean = image.detach()[None]
    labels = torch.tensor([label], device=image.device)
    with gradients_kept(model):
        towards = attack(model, clean, labels).detach()[0] - image
    if not bool((towards != 0).any()):
        raise ValueError("attack must move the image, got the image itself back")
    along = towards / towards.abs().amax()
    across = signs_like(image, generator)
    across = across - (across * along).sum() / (along * along).sum() * along
    return SurfacePlane(along, across / across.abs().amax().clamp_min(1e-12))


@torch.no_grad()
def plane_losses(
    model: nn.Module,
    image: Tensor,
    label: int,
    plane: SurfacePlane,
    offsets: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    batch_size: int = 256,
) -> Tensor:
    """The loss at each point of the grid ``offsets x offsets`` on a plane: (G, G) float32, the attack along the rows.

    Raises:
        FloatingPointError: losses that are not finite.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> plane = SurfacePlane(torch.ones(1, 2, 2), torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]))
        >>> plane_losses(model, torch.full((1, 2, 2), 0.5), 0, plane, torch.tensor([-0.1, 0.0, 0.1])).shape
        torch.Size([3, 3])
    """
    across, along = torch.meshgrid(offsets, offsets, indexing="ij")
    losses = []
    for b, a in zip(across.flatten().split(batch_size), along.flatten().split(batch_size), strict=True):
        a, b = (each.to(image).view(-1, 1, 1, 1) for each in (a, b))
        logits = check_logits(model((image + a * plane.attack + b * plane.across).clamp(0, 1)), len(a))
        losses.append(objective(logits.float(), torch.full((len(a),), label, device=image.device)))
    grid = torch.cat(losses).float().cpu().view(len(offsets), len(offsets))
    if not bool(grid.isfinite().all()):
        raise FloatingPointError("the model's logits are not finite on its loss surface")
    return grid


def _check(model: nn.Module, image: Tensor, radius: float, points: int, batch_size: int) -> tuple[float, int, int]:
    """The numbers, as Python's own."""
    check_model(model)
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"image must be a floating point tensor in [0, 1], got {got}")
    if image.ndim != 3:
        raise ValueError(f"image must have shape (C, H, W), got {tuple(image.shape)}")
    clipped("image", image)
    radius = check_length("radius", radius, ABOVE_ZERO)
    points = check_int("points", points, 3, _MOST_POINTS)
    if points % 2 == 0:
        raise ValueError(f"points must be odd, so that the image itself is on the grid, got {points}")
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    return radius, points, batch_size
