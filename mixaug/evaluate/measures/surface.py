"""The loss around one image, on the plane of an attack's direction and a random one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixaug._checks import ABOVE_ZERO, MAX_COUNT, check_int, check_length, clipped
from mixaug._drawing import FigureImage, new_figure, png_of
from mixaug._model_state import check_logits, check_model, evaluation_mode
from mixaug._pictures import as_float
from mixaug.attacks import PGD, cross_entropy
from mixaug.attacks.attack import signs_like
from mixaug.evaluate.intervals import Quantity, bootstrap_means
from mixaug.evaluate.labels import interval_text
from mixaug.evaluate.measure import Drawn, Inputs, Measure, ModelInfo, ModelRunner, Section
from mixaug.evaluate.seeds import seed_of
from mixaug.evaluate.subject import gradients_kept
from mixaug.evaluate.tables import Row, Table, cut, text_table

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


_ROW = 1.95  # inches
_WHAT = (
    "along the direction of PGD-20 of the same radius (attack) and a random one orthogonal to it, each from minus to "
    "plus the radius, in units of pixels in [0, 1]; points are clipped to that range. "
)
_READ = (
    "Less rise along the attack is better; as much along the random direction is a sign that the attack found little."
)
_MANY = 4  # models above which only the largest radius is shown
_SHOWN = 2  # images with a row of their own, below the mean of all


def surface_figure(surfaces: Sequence[LossSurface]) -> FigureImage:
    """Loss surfaces in three dimensions: the mean over the images, and some images by themselves.

    Args:
        surfaces: of one or more images, each at the same radii and with as many points.

    Returns:
        The figure: height is the loss less that of the image itself; a row has one scale, so its radii compare.

    Raises:
        ValueError: no surface, or images with different radii.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> flat = LossSurface(torch.zeros(3, 3), torch.tensor([-0.1, 0.0, 0.1]), 0.1, label=0, index=7)
        >>> surface_figure([flat]).title
        'Loss surface'
    """
    images = _by_image(surfaces)
    rows: list[tuple[str, list[LossSurface]]] = []
    if len(images) > 1:
        rows.append((f"mean of {len(images)} images", _means(images)))
    rows += [(f"image {index}" if index >= 0 else "", row) for index, row in list(images.items())[:_SHOWN]]
    caption = f"How far the loss rises around an image, {_WHAT}One scale for each row. {_READ}"
    return FigureImage(_picture(rows, [_scale(row) for _, row in rows]), "Loss surface", caption)


def surface_comparison(surfaces: Mapping[str, Sequence[LossSurface]]) -> FigureImage:
    """The mean loss surface of each model, all on one scale.

    Args:
        surfaces: each model's name to its surfaces, around the same images at the same radii.

    Raises:
        ValueError: no surface, or images with different radii.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> flat = LossSurface(torch.zeros(3, 3), torch.tensor([-0.1, 0.0, 0.1]), 0.1, label=0, index=7)
        >>> surface_comparison({"one": [flat], "two": [flat]}).title
        'Loss surface'
    """
    images = {name: _by_image(each) for name, each in surfaces.items()}
    rows = [(name, _means(each)) for name, each in images.items()]
    low, high = _scale([surface for _, row in rows for surface in row])
    if len(rows) > _MANY:  # rows of their own would be a figure of half a metre
        picture = _side_by_side([(name, row[-1]) for name, row in rows], (low, high))
    else:
        picture = _picture(rows, [(low, high)] * len(rows))
    count = max(map(len, images.values()))
    caption = (
        f"How far the loss rises, mean over {count} image{'s' if count > 1 else ''}, {_WHAT}One scale for all. {_READ}"
    )
    return FigureImage(picture, "Loss surface", caption)


def _by_image(surfaces: Sequence[LossSurface]) -> dict[int, list[LossSurface]]:
    images: dict[int, list[LossSurface]] = {}
    for surface in surfaces:
        images.setdefault(surface.index, []).append(surface)
    radii = [[surface.radius for surface in row] for row in images.values()]
    if not radii or any(row != radii[0] for row in radii):
        raise ValueError(f"surfaces must be of one image or more at the same radii, got the radii {radii}")
    return images


def _means(images: Mapping[int, Sequence[LossSurface]]) -> list[LossSurface]:
    return [_mean(column) for column in zip(*images.values(), strict=True)]


def _scale(row: Sequence[LossSurface]) -> tuple[float, float]:
    rises = torch.stack([surface.rise for surface in row])
    return min(float(rises.min()), 0.0), max(float(rises.max()), 1e-3)


def _picture(rows: Sequence[tuple[str, Sequence[LossSurface]]], scales: Sequence[tuple[float, float]]) -> bytes:
    figure, grid = new_figure(_ROW * len(rows), rows=len(rows), columns=len(rows[0][1]), projection="3d")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.04, hspace=0.0)
    for axes_row, (name, row), scale in zip(_as_rows(grid, len(rows)), rows, scales, strict=True):
        for column, (axes, surface) in enumerate(zip(axes_row, row, strict=True)):
            _draw(axes, surface, *scale)
            axes.set_title(f"{name if column == 0 else ''}\nradius {surface.radius:g}", fontsize=8.5, pad=0)
    figure.supylabel("rise of the cross entropy", fontsize=8.5)
    return png_of(figure)


def _side_by_side(models: Sequence[tuple[str, LossSurface]], scale: tuple[float, float]) -> bytes:
    """The largest radius alone, three models beside each other."""
    rows = -(-len(models) // 3)
    figure, grid = new_figure(_ROW * rows, rows=rows, columns=3, projection="3d")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.04, hspace=0.0)
    places = list(_as_rows(grid, rows).flat)
    for axes, (name, surface) in zip(places, models, strict=False):
        _draw(axes, surface, *scale)
        axes.set_title(f"{cut(name, 24)}\nradius {surface.radius:g}", fontsize=8.5, pad=0)
    for axes in places[len(models) :]:
        axes.remove()
    figure.supylabel("rise of the cross entropy", fontsize=8.5)
    return png_of(figure)


def _mean(column: Sequence[LossSurface]) -> LossSurface:
    first = column[0]
    return LossSurface(torch.stack([surface.rise for surface in column]).mean(0), first.offsets, first.radius, -1)


def _as_rows(grid: Any, rows: int) -> Any:
    import numpy as np

    return np.reshape(np.asarray(grid, dtype=object), (rows, -1))


def _draw(axes: Any, surface: LossSurface, low: float, high: float) -> None:
    across, along = torch.meshgrid(surface.offsets, surface.offsets, indexing="ij")
    axes.plot_surface(
        along.numpy(), across.numpy(), surface.rise.numpy(), cmap="viridis", vmin=low, vmax=high, linewidth=0,
        rcount=len(surface.offsets), ccount=len(surface.offsets), antialiased=True,
    )  # fmt: skip
    axes.set_zlim(low, high)
    axes.view_init(elev=26, azim=-125)
    # The corner of both negative ends has no room for two labels.
    ends = [-surface.radius, 0, surface.radius]
    axes.set_xticks(ends, ["", "0", f"{surface.radius:g}"])
    axes.set_yticks(ends, ["", "0", f"{surface.radius:g}"])
    axes.tick_params(labelsize=7, pad=-3)
    axes.set_xlabel("attack", fontsize=8, labelpad=-7)
    axes.set_ylabel("random", fontsize=8, labelpad=-7)
    axes.locator_params(axis="z", nbins=4)
    axes.set_box_aspect(None, zoom=0.98)


@dataclass(frozen=True)
class LossRise:
    """How far the loss rises at one radius around images, means over them.

    Args:
        attack: rise at the attack's end, where its adversarial image is.
        random: rise along a random direction orthogonal to it, mean of both ends.
    """

    attack: Quantity
    random: Quantity


def loss_rises(surfaces: Sequence[LossSurface]) -> dict[float, LossRise]:
    """The mean rises by radius, with 95% bootstrap intervals over the images.

    Example:
        >>> losses = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.25, 2.0], [0.0, 0.5, 1.0]])
        >>> rise = loss_rises([LossSurface(losses, torch.tensor([-0.1, 0.0, 0.1]), 0.1, label=3)])[0.1]
        >>> rise.attack.value, rise.random.value
        (1.75, 0.25)
    """
    rises = {}
    for radius in dict.fromkeys(surface.radius for surface in surfaces):
        rows = [[each.attack_rise, each.random_rise] for each in surfaces if each.radius == radius]
        attack, random = (
            Quantity(**vars(figure)) for figure in bootstrap_means(torch.tensor(rows, dtype=torch.float32))
        )
        rises[radius] = LossRise(attack, random)
    return rises


class LossSurfaces(Measure[list[LossSurface]]):
    """The loss around some images at three radii, see :func:`loss_surface`."""

    name, order, usual = "surface", 70, 2
    needs_gradient = True
    section = "examples"

    @property
    def timed_as(self) -> str:
        return "surfaces"

    def work(self, n: int, eps: float) -> float:
        return len(RADII) * (60.0 + 625.0) * n  # an attack of 20 steps and a grid of 25 by 25 points at each

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> list[LossSurface]:
        found = []
        images, labels = runner.data.take(index)
        for at, image, label in zip(index.tolist(), as_float(images), labels.tolist(), strict=True):
            runner.bar.doing("loss surface")
            piece = runner.journal.keep(
                f"surface {at}",
                lambda at=at, image=image, label=label: self._around(runner, at, image, label),  # type: ignore[misc]
                RADII, runner.batch_size,
            )  # fmt: skip
            found += [
                LossSurface(losses, offsets, radius, label, at)
                for losses, offsets, radius in zip(piece["losses"], piece["offsets"], RADII, strict=True)
            ]
            runner.step("loss surface", self.work(1, inputs.eps))
        return found

    def _around(self, runner: ModelRunner, at: int, image: Tensor, label: int) -> dict[str, Tensor]:
        found = []
        for radius in RADII:
            # The same random direction for every model.
            generator = torch.Generator().manual_seed(seed_of(runner.seed, "surface", at))
            found.append(
                loss_surface(
                    runner.model, image.to(runner.device), label, radius, generator=generator,
                    batch_size=runner.batch_size, index=at,
                )
            )  # fmt: skip
        return {
            "losses": torch.stack([each.losses for each in found]),
            "offsets": torch.stack([each.offsets for each in found]),
        }

    def to_json(self, result: list[LossSurface] | None) -> dict[str, Any]:
        return {
            "surfaces": [
                vars(surface) | {"losses": surface.losses.tolist(), "offsets": surface.offsets.tolist()}
                for surface in result or []
            ]
        }

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> list[LossSurface] | None:
        return [
            LossSurface(
                **surface | {name: torch.tensor(surface[name], dtype=torch.float32) for name in ("losses", "offsets")}
            )
            for surface in data["surfaces"]
        ] or None

    def summary(self, result: list[LossSurface] | None) -> dict[str, Any]:
        rises = loss_rises(result or [])
        return {
            "loss_rise": {
                f"{radius:g}": {key: vars(figure) for key, figure in vars(rise).items()}
                for radius, rise in rises.items()
            }
        }

    def compared_summary(self, result: list[LossSurface] | None) -> dict[str, Any]:
        return self.summary(result)

    def tables(self, result: list[LossSurface]) -> list[Section]:
        rows = [
            Row(
                f"{radius:g}",
                [
                    (rise.attack.text, interval_text(rise.attack)),
                    (rise.random.text, interval_text(rise.random)),
                    f"{rise.attack.n:,}",
                ],
            )
            for radius, rise in loss_rises(result).items()
        ]
        note = (
            "Rise of the cross entropy, mean over the images: at the end of PGD-20 of the same radius, and at both "
            "ends of a random direction. Small figures are 95% intervals."
        )
        header = ["radius, pixels in [0, 1]", "attack", "random", "n"]
        return [Section("Loss around images", 70, Table(header, rows, note))]

    def figures(self, result: list[LossSurface], model: ModelInfo) -> list[Drawn]:
        return [Drawn("surface", 70, surface_figure(result))]

    def text(self, result: list[LossSurface]) -> str:
        rows = [
            [f"{radius:g}", rise.attack.text, interval_text(rise.attack), rise.random.text, interval_text(rise.random),
             str(rise.attack.n)]
            for radius, rise in loss_rises(result).items()
        ]  # fmt: skip
        header = ["rise of the loss, radius", "attack", "95% interval", "random", "95% interval", "n"]
        return text_table(header, rows)

    def same(self, one: list[LossSurface], other: list[LossSurface], models: tuple[ModelInfo, ModelInfo]) -> bool:
        images = [[(each.index, each.radius) for each in surfaces] for surfaces in (one, other)]
        return images[0] == images[1]

    def compared_tables(self, results: Sequence[list[LossSurface]], models: Sequence[ModelInfo]) -> list[Section]:
        rises = [loss_rises(result) for result in results]
        rows = [
            Row(model.marked_name, [(rise.attack.text, interval_text(rise.attack)) for rise in found.values()])
            for model, found in zip(models, rises, strict=True)
        ]
        radii = list(rises[0])
        note = (
            "Rise of the cross entropy at the end of PGD-20 of the same radius, "
            f"n = {rises[0][radii[0]].attack.n:,} images; small figures are 95% intervals."
        )
        table = Table(["model", *(f"radius {radius:g}" for radius in radii)], rows, note)
        return [Section("Rise of the loss along the attack", 70, table)]

    def compared_figures(self, results: Sequence[list[LossSurface]], models: Sequence[ModelInfo]) -> list[Drawn]:
        surfaces = {model.name: result for model, result in zip(models, results, strict=True)}
        return [Drawn("surface", 70, surface_comparison(surfaces))]

    def compared_text(self, results: Sequence[list[LossSurface]], models: Sequence[ModelInfo]) -> str:
        rises = [loss_rises(result) for result in results]
        rows = [
            [cut(model.marked_name), *(rise.attack.text for rise in found.values())]
            for model, found in zip(models, rises, strict=True)
        ]
        return text_table(["rise of the loss along the attack", *(f"radius {radius:g}" for radius in rises[0])], rows)


MEASURE = LossSurfaces()
