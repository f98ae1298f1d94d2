"""Makes the pictures of the cards of Dynamic MixCut, adversarial training and the hybrid method.

    python docs/make_adversarial_images.py --runs FOLDER

trains three small models on the Fashion-MNIST images in the package, about 15 minutes on one core, and draws what they
do. Finished runs in the folder are not made again, stopped ones go on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from mixaug import DynamicMixCut
from mixaug.attacks import PGD, two_views
from mixaug.losses import EpsSchedule
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import DataParts, load_data
from mixaug.train.loop import train
from mixaug.train.settings import TrainSettings

IMAGES = Path(__file__).parent / "images"
BASE = TrainSettings(data="embedded", device="cpu", warmup=1)
RUNS = {
    "standard": replace(BASE, method="standard", limit=2_000, epochs=12),
    "pgd": replace(BASE, method="pgd", limit=2_000, epochs=12),
    "hybrid": replace(BASE, method="hybrid", epochs=12),
}
EPS = 8 / 255
#: The test image under attack: one that the standard model gets right and then loses.
SHOWN = 61
#: Width of a panel of bars, that of an image being 1.
WIDE = 1.25
BLUE, ORANGE, GREEN, GREY = "#2a6fb0", "#d9702b", "#3a9a5b", "#8a8a8a"


def histories(runs: Path) -> dict[str, list[dict[str, float]]]:
    """The log of each run, trained where it is not there."""
    found = {}
    for name, settings in RUNS.items():
        resume = (runs / name / "last.pt").exists()
        found[name] = train(replace(settings, out=str(runs / name)), resume=resume).history
    return found


def show(axis: Axes, image: Tensor, title: str) -> None:
    """A grey image (1, H, W) in [0, 1]."""
    axis.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _frame(axis, title)


def show_change(axis: Axes, change: Tensor, title: str) -> None:
    """A change (1, H, W) of at most eps, red where brighter, blue where darker."""
    axis.imshow(change[0].numpy(), cmap="RdBu_r", vmin=-1.5 * EPS, vmax=1.5 * EPS, interpolation="nearest")
    _frame(axis, title)


def _frame(axis: Axes, title: str) -> None:
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    for spine in axis.spines.values():
        spine.set(color="0.8", linewidth=0.6)


def outline(axis: Axes, boxes: Tensor) -> None:
    """The edges of boxes (N, 4) on an image."""
    for x0, y0, x1, y1 in boxes.tolist():
        if x1 > x0 and y1 > y0:
            place = (x0 - 0.5, y0 - 0.5)
            axis.add_patch(Rectangle(place, x1 - x0, y1 - y0, fill=False, color=ORANGE, linewidth=1.8))


def bars(axis: Axes, values: Tensor, classes: tuple[str, ...], colour: str, at_least: float = 0.02) -> None:
    """The largest entries of a vector of probabilities with the names of their classes."""
    chosen = [i for i in values.argsort(descending=True).tolist()[:3] if values[i] >= at_least]
    axis.barh(range(len(chosen)), [float(values[i]) for i in chosen], height=0.4, color=colour)
    for row, i in enumerate(chosen):
        axis.text(0, row - 0.24, f"{classes[i]}  {values[i]:.2f}", fontsize=8, va="bottom")
    axis.set(xlim=(0, 1), ylim=(2.9, -0.9), yticks=[], xticks=[])
    axis.set_box_aspect(1 / WIDE)  # as high as the images beside it
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def mixcut_figure(model: nn.Module, data: DataParts) -> Figure:
    """A row with two adversarial views of an image, a row with two partners from the batch."""
    images, labels = sample(data)
    figure = Figure(figsize=(9, 4.15), layout="constrained")
    above, below = figure.subfigures(2, 1)
    mix = DynamicMixCut(len(data.classes))
    params = mix.sample(images, generator=torch.Generator().manual_seed(415))
    attack = PGD(eps=EPS, step_size=EPS / 4, steps=10, targeted=True, generator=torch.Generator().manual_seed(0))
    # Training draws the targets; here they are the classes of the two partners of the row below.
    targets = labels[params.index.T.flatten()]
    views = two_views(lambda model, x, y: attack(model, x, y, targets=targets), model, images, labels)
    row = 0
    boxes, image = params.boxes[row], images[row]
    towards = [data.classes[int(target)].lower() for target in (targets[row], targets[len(images) + row])]

    panels = _row(above, "With an adversary: inside the boxes a blend of two attacks on the image. The label is kept.")
    mixed, targets = mix.replay(images, labels, params, views=views)
    show(panels[0], image, "image $x$")
    show_change(panels[1], views[0][row] - image, f"$p_1 - x$, to {towards[0]}")
    show_change(panels[2], views[1][row] - image, f"$p_2 - x$, to {towards[1]}")
    show(panels[3], image, "boxes")
    outline(panels[3], boxes)
    show_change(panels[4], mixed[row] - image, "result $- x$")
    outline(panels[4], boxes)
    _label(panels[5], targets[row], data.classes)

    panels = _row(below, "Without one: inside the boxes a blend of two other images. The label is weighted by area.")
    mixed, targets = mix.replay(images, labels, params)
    first, second = params.index[row].tolist()
    show(panels[0], image, "image $x$")
    show(panels[1], images[first], "partner $x_a$")
    show(panels[2], images[second], "partner $x_b$")
    show(panels[3], image, f"boxes, {1 - float(params.lam[row]):.0%} of the pixels")
    outline(panels[3], boxes)
    show(panels[4], mixed[row], f"result, $\\beta$ = {float(params.beta[row]):.2f}")
    _label(panels[5], targets[row], data.classes)
    return figure


def _row(part: SubFigure, title: str) -> list[Axes]:
    part.suptitle(title, fontsize=10, x=0.01, ha="left")
    return list(part.subplots(1, 6, width_ratios=[1, 1, 1, 1, 1, WIDE]))


def _label(axis: Axes, target: Tensor, classes: tuple[str, ...]) -> None:
    bars(axis, target, classes, GREEN)
    axis.set_title("label", fontsize=9)
    axis.text(0, 2.9, f"every other class {float(target.min()):.2f}", fontsize=8, color="0.4", va="bottom")


def sample(data: DataParts) -> tuple[Tensor, Tensor]:
    """Test images of six classes."""
    first = {int(label): i for i, label in reversed(list(enumerate(data.test.labels[:200].tolist())))}
    chosen = torch.tensor([first[label] for label in (2, 1, 8, 9, 3, 7)])
    return data.test.images[chosen] / 255, data.test.labels[chosen]


def training_figure(models: dict[str, nn.Module], data: DataParts) -> Figure:
    """One image under attack against two models, and the accuracy of both over the radius."""
    image, label = data.test.images[SHOWN, None] / 255, data.test.labels[SHOWN, None]
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.05, 1])
    for part, (name, model), colour in zip(left.subfigures(2, 1), models.items(), (GREY, BLUE), strict=True):
        attack = PGD(eps=EPS, step_size=EPS / 4, steps=20, generator=torch.Generator().manual_seed(0))
        attacked = attack(model, image, label)
        part.suptitle(name, fontsize=10, x=0.01, ha="left")
        panels = list(part.subplots(1, 5, width_ratios=[1, 1, 1, WIDE, WIDE]))
        show(panels[0], image[0], "image")
        show_change(panels[1], (attacked - image)[0], "change")
        show(panels[2], attacked[0], "attacked")
        for axis, shown, title in ((panels[3], image, "prediction"), (panels[4], attacked, "attacked")):
            with torch.no_grad():
                said = model(shown).softmax(1)[0]
            bars(axis, said, data.classes, colour)
            axis.set_title(title, fontsize=9)
    axis = right.subplots()
    radii = [0, 2, 4, 8, 12, 16]
    for (name, model), colour in zip(models.items(), (GREY, BLUE), strict=True):
        rates = [100 * accuracy(model, data, radius / 255) for radius in radii]
        axis.plot(radii, rates, marker="o", markersize=4, color=colour, label=name)
    axis.axvline(8, color="0.8", linewidth=1, zorder=0)
    axis.set(xlabel="radius of PGD-20, in 1/255", ylabel="accuracy in %, 200 test images", ylim=(0, 100), xticks=radii)
    axis.legend(frameon=False, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def accuracy(model: nn.Module, data: DataParts, eps: float, count: int = 200) -> float:
    """Share of test images that the model gets right under PGD-20."""
    images, labels = data.test.images[:count] / 255, data.test.labels[:count]
    if eps:
        attack = PGD(eps=eps, step_size=eps / 4, steps=20, generator=torch.Generator().manual_seed(0))
        images = attack(model, images, labels)
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def hybrid_figure(rows: list[dict[str, float]]) -> Figure:
    """The shapes of the radius schedule, and alpha and the accuracies of a run."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    radius, alpha, rates = figure.subplots(1, 3)
    epochs = [int(row["epoch"]) for row in rows]
    for shape, style in (("linear", "-"), ("cosine", "--"), ("step", ":")):
        values = [EpsSchedule(0.03, len(epochs), shape=shape)(epoch - 1) for epoch in epochs]
        how: dict[str, Any] = {"drawstyle": "steps-mid"} if shape == "step" else {}
        radius.plot(epochs, values, style, color=BLUE, label=shape, **how)
    radius.plot(epochs, [row["radius"] for row in rows], "o", color=BLUE, markersize=4, label="this run")
    radius.set(title="radius of the attack", ylim=(0, 0.032))
    radius.legend(frameon=False, fontsize=8)
    alpha.plot(epochs, [row["alpha"] for row in rows], marker="o", markersize=4, color=ORANGE)
    alpha.axhline(0.5, color="0.8", linewidth=1, zorder=0)
    alpha.set(title="alpha, weight of the clean loss", ylim=(0, 0.6))
    for column, label, colour in (
        ("validation_accuracy", "clean", GREY),
        ("validation_fgsm_accuracy", "FGSM, 0.03", ORANGE),
        ("validation_pgd_accuracy", "PGD-10, 0.03", BLUE),
    ):
        rates.plot(epochs, [100 * row[column] for row in rows], marker="o", markersize=4, color=colour, label=label)
    rates.set(title="validation accuracy in %", ylim=(0, 100))
    rates.legend(frameon=False, fontsize=8, loc="lower right")
    for axis in (radius, alpha, rates):
        axis.set_xlabel("epoch")
        axis.title.set_fontsize(10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Trains what is missing and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    runs = parser.parse_args().runs
    logs = histories(runs)
    data = load_data("embedded")
    models = {}
    for name, title in (("standard", "Standard training"), ("pgd", "Adversarial training (PGD)")):
        models[title] = load_checkpoint(runs / name / "best.pt")[0].eval()
    IMAGES.mkdir(exist_ok=True)
    mixcut_figure(models["Adversarial training (PGD)"], data).savefig(IMAGES / "dynamic_mixcut.png", dpi=110)
    training_figure(models, data).savefig(IMAGES / "adversarial_training.png", dpi=110)
    hybrid_figure(logs["hybrid"]).savefig(IMAGES / "hybrid.png", dpi=110)


if __name__ == "__main__":
    main()
