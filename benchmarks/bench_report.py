"""How long the safety report takes: every part of it, on 1,000 images of 32 px and the small ResNet.

    python benchmarks/bench_report.py             the table of docs/benchmarks.md (5 minutes on two cores)
    python benchmarks/bench_report.py --quick     a handful of images, to see that it runs
    python benchmarks/bench_report.py --device cuda

The network is ``resnet-small`` with random weights, and the labels are its own predictions: every image is right
without an attack, so every image is attacked, and few of them fall to Square early. A trained network that withstands
nothing takes less.
"""

from __future__ import annotations

import argparse
import sys
import time

import measure
import torch
from torch import Tensor, nn

from mixaug.evaluate import Report, evaluate_model
from mixaug.models import build_model

_IMAGES, _SIDE, _CLASSES = 1_000, 32, 10
_GOAL = 180.0


def network() -> nn.Module:
    """The small ResNet for RGB images of 32 px, always the same random weights."""
    torch.manual_seed(0)
    model = build_model(
        "resnet-small", num_classes=_CLASSES, in_channels=3, image_size=_SIDE, mean=[0.5] * 3, std=[0.25] * 3
    )
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def images_of(count: int) -> Tensor:
    """Smooth pictures with grain, uint8."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(_SIDE, _SIDE), mode="bicubic", align_corners=True)
    return ((smooth + 0.03 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1) * 255).to(torch.uint8)


def measured(count: int, device: str) -> tuple[Report, float]:
    """The whole report, and its seconds."""
    model, images = network().to(device), images_of(count)
    with torch.no_grad():
        labels = torch.cat([model(part.to(device) / 255).argmax(1).cpu() for part in images.split(250)])
    start = time.perf_counter()
    report = evaluate_model(model, (images, labels), everything=True, out_of_distribution=(255 - images, labels))
    return report, time.perf_counter() - start


def table(report: Report, whole: float, count: int) -> str:
    """The seconds of each part as Markdown."""
    numbers = {"clean": count, "corruptions": count, "ood": count}
    numbers |= {name: len(index) for name, index in report.outcomes.attack_index.items()}
    numbers |= {
        name: report.settings[f"n_{key}"]
        for name, key in (
            ("curve", "curve"), ("flips", "flips"), ("occlusion", "occlusion"), ("lipschitz", "lipschitz"),
            ("surfaces", "surface"), ("features", "features"), ("maps", "maps"), ("audit", "audit"),
        )
    }  # fmt: skip
    rows = [f"| {name} | {numbers.get(name, count):,} | {value:.1f} |" for name, value in report.seconds.items()]
    quick = sum(report.seconds[name] for name in ("clean", *report.outcomes.attacked, "curve"))
    return "\n".join(
        [
            "| part | images | seconds |",
            "|---|---:|---:|",
            *rows,
            f"| **all** | | **{whole:.0f}** |",
            "",
            f"`quick` (clean images, its four attacks, accuracy against the radius): **{quick:.0f} s**, goal below "
            f"{_GOAL:.0f} s on two cores.",
        ]
    )


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a handful of images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args()
    count = 12 if options.quick else _IMAGES
    with measure.torch_threads(options.threads):
        report, whole = measured(count, options.device)
    sys.stdout.write(f"{table(report, whole, count)}\n\n{report.environment}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
