"""Makes the picture of the card of S-ReLU and D-ReLU.

    python docs/make_drelu_images.py --runs FOLDER

trains two small models on the Fashion-MNIST images in the package, with a ReLU head and with
a D-ReLU head, about 5 minutes on one core, and draws what they do. Finished runs in the folder are not made again,
stopped ones go on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor, nn

from mixaug.attacks import PGD, CWLinf
from mixaug.nn import SReLU
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import DataParts, load_data
from mixaug.train.loop import train
from mixaug.train.settings import TrainSettings

IMAGES = Path(__file__).parent / "images"
BASE = TrainSettings(data="embedded", device="cpu", method="standard", limit=3_000, epochs=30, placement="head")
RUNS = {
    "ReLU head": BASE,
    "D-ReLU head": replace(BASE, activation="drelu", drelu_lambda=1.0),
}
BLUE, ORANGE, GREY = "#2a6fb0", "#d9702b", "#8a8a8a"
#: Test images shown, those that both models get right, and the largest radius of the curves.
SHOWN, FURTHEST = 4, 0.2
#: Least cap that the picture shows.
LEAST = 1e-3
#: Images that the curves are of.
JUDGED = 200


def histories(runs: Path) -> dict[str, list[dict[str, float]]]:
    """The log of each run, trained where it is not there."""
    found = {}
    for name, settings in RUNS.items():
        folder = runs / name.replace(" ", "-").lower()
        resume = (folder / "last.pt").exists()
        found[name] = train(replace(settings, out=str(folder)), resume=resume).history
    return found


def models(runs: Path) -> dict[str, nn.Module]:
    """The trained models."""
    return {name: load_checkpoint(runs / name.replace(" ", "-").lower() / "last.pt")[0] for name in RUNS}


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy, (B, H, W)."""
    images = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(images), labels, reduction="sum")
    return torch.autograd.grad(loss, images)[0][:, 0]


def shapes(axis: Axes) -> None:
    """The activation and its gradient."""
    x = torch.linspace(-1.5, 4, 400, requires_grad=True)
    y = SReLU(2.0)(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    axis.plot(x.detach(), x.detach().relu(), color=GREY, linestyle="--", label="ReLU")
    axis.plot(x.detach(), y.detach(), color=BLUE, linewidth=2, label="capped at m = 2")
    axis.plot(x.detach(), slope, color=ORANGE, linewidth=1.5, label="its gradient")
    axis.set_title("the activation", fontsize=10, loc="left")
    axis.legend(frameon=False, fontsize=9)
    _plain(axis)


def caps_over_epochs(axis: Axes, history: list[dict[str, float]]) -> None:
    """Quantiles of the caps, and what share of the activations is capped."""
    epochs = [row["epoch"] for row in history]
    axis.fill_between(
        epochs, [row["cap_q10"] for row in history], [row["cap_q90"] for row in history], color=BLUE, alpha=0.2,
        label="caps, 10% to 90%",
    )  # fmt: skip
    axis.plot(epochs, [row["cap_median"] for row in history], color=BLUE, label="median cap")
    axis.set_yscale("log")
    axis.set_ylim(LEAST, None)
    axis.set_xlabel("epoch", fontsize=9)
    axis.set_title("the caps of the head while it trains", fontsize=10, loc="left")
    other = axis.twinx()
    other.plot(epochs, [100 * row["capped_share"] for row in history], color=ORANGE, label="capped activations, %")
    other.plot(
        epochs, [100 * row["zero_gradient_share"] for row in history], color=ORANGE, linestyle=":",
        label="images without a gradient, %",
    )  # fmt: skip
    other.set_ylim(0, 100)
    lines = [*axis.get_lines(), *other.get_lines()]
    axis.legend(lines, [str(line.get_label()) for line in lines], frameon=False, fontsize=8)
    _plain(axis)
    other.tick_params(labelsize=8, length=0)
    other.spines[["top", "right", "left"]].set_visible(False)


def accuracy_by_radius(axis: Axes, built: dict[str, nn.Module], images: Tensor, labels: Tensor) -> None:
    """Under PGD, and under the worst of it, its margin form and the images made on the other model."""
    radii = [0.0, 0.02, 0.04, 0.07, 0.1, 0.15, FURTHEST]
    for (name, model), colour, other in zip(built.items(), (GREY, BLUE), reversed(built.values()), strict=True):
        alone, worst = [], []
        for eps in radii:
            made = [attack(eps)(model, images, labels)]
            made += [attack(eps, "margin")(source, images, labels) for source in (model, other)]
            held = [right(model, attacked, labels) for attacked in made]
            alone.append(100 * float(held[0].float().mean()))
            worst.append(100 * float(torch.stack(held).all(0).float().mean()))
        axis.plot(radii, alone, color=colour, marker="o", markersize=3, label=f"{name}, PGD-20")
        axis.plot(radii, worst, color=colour, linestyle="--", marker="o", markersize=3, label=f"{name}, worst of three")
    axis.set_ylim(0, 100)
    axis.set_xlabel("radius", fontsize=9)
    axis.set_title("right answers under attack, %", fontsize=10, loc="left")
    axis.legend(frameon=False, fontsize=8)
    _plain(axis)


def attack(eps: float, objective: str = "ce") -> PGD:
    """The same random start at every call."""
    kind = PGD if objective == "ce" else CWLinf
    return kind(eps=eps, step_size=eps / 4, steps=20, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Image by image."""
    return model(images).argmax(1) == labels


def gradients(part: SubFigure, built: dict[str, nn.Module], images: Tensor, labels: Tensor) -> None:
    """Images, and the size of their input gradients in both models; blank where it is zero."""
    kept = torch.stack([model(images).argmax(1) == labels for model in built.values()]).all(0)
    drelu = input_gradient(built["D-ReLU head"], images, labels)
    without = kept & (drelu == 0).flatten(1).all(1)
    chosen = torch.cat([without.nonzero()[: SHOWN // 2, 0], (kept & ~without).nonzero()[:, 0]])[:SHOWN]
    axes = part.subplots(len(built) + 1, SHOWN, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    rows = {"image": images[chosen, 0]}
    for name, model in built.items():
        rows[name] = input_gradient(model, images[chosen], labels[chosen]).abs()
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            largest = float(picture.max())
            axis.imshow(picture / (largest or 1.0), cmap="gray" if name == "image" else "magma", vmin=0, vmax=1)
            if name != "image":
                text = "exactly 0" if largest == 0 else f"up to {largest:.2g}"
                axis.set_xlabel(text, fontsize=8, labelpad=1)
        line[0].set_ylabel(name, fontsize=9)
    axes[0][0].set_title("input gradients of the loss", fontsize=10, loc="left")


def _plain(axis: Any) -> None:
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def draw(runs: Path) -> None:
    """Writes ``images/drelu.png``."""
    history = histories(runs)["D-ReLU head"]
    built = models(runs)
    data: DataParts = load_data("embedded")
    part = data.test
    images, labels = part.images[:JUDGED].float() / 255, part.labels[:JUDGED]  # type: ignore[union-attr]
    figure = Figure(figsize=(12, 5.4), layout="constrained", facecolor="white")
    left, rest = figure.subfigures(1, 2, width_ratios=[7.2, 4.8])
    top, bottom = left.subfigures(2, 1)
    shape, caps = top.subplots(1, 2)
    shapes(shape)
    caps_over_epochs(caps, history)
    accuracy_by_radius(bottom.subplots(1, 1), built, images, labels)
    gradients(rest, built, images, labels)
    figure.savefig(IMAGES / "drelu.png", dpi=110, metadata={"Software": None})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/drelu_card"), help="folder of the runs")
    draw(parser.parse_args().runs)


if __name__ == "__main__":
    main()
