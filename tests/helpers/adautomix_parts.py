"""Small classifiers and batches for AdAutoMix, and what its tests look at around a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixaug.adautomix import AdAutoMix, MixDraw

CLASSES = 4
SIZE = (12, 20)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """Three stages of two convolutions' kind, with batch norm; maps of 8x6x10 after ``stage2``."""

    def __init__(self, dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        kind = nn.BatchNorm2d if norm else nn.Identity
        self.stage1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), kind(6), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, padding=1), kind(8), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1), kind(8), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))


def net(seed: int = 0, **options: float | bool) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net(**options)
    # Logits that tell images apart, in evaluation mode too, as those of a trained net.
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        model.head.weight *= 12
        model.head.bias -= model.head.bias.mean()
        for norm in norms:
            norm.momentum = 1.0
        model(batch(12, seed)[0])
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()
    return model


def mixer_of(model: nn.Module, seed: int = 1, **options: object) -> AdAutoMix:
    """With strong masks (a new generator's are almost flat) and draws of its own."""
    options.setdefault("feature_layer", "stage2")
    options.setdefault("generator", seeded(seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer = AdAutoMix(model, CLASSES, **options)
    with torch.no_grad():
        mixer.generator.project.weight *= 4
    return mixer


def batch(count: int = 6, seed: int = 2, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Images of different colours, in 4 classes."""
    drawn = seeded(seed)
    colours, noise = torch.rand(count, 3, 1, 1, generator=drawn), torch.rand(count, 3, *size, generator=drawn)
    return 0.5 * colours + 0.5 * noise, torch.arange(count) % CLASSES


def draw_of(index: list[list[int]], ratios: list[list[float]], plain: list[bool] | None = None) -> MixDraw:
    return MixDraw(torch.tensor(index), torch.tensor(ratios), torch.tensor(plain or [False] * len(index)))


def uneven(model: nn.Module, seed: int = 7) -> None:
    """Parameters and buffers away from what they start with, where teacher and model agree."""
    drawn = seeded(seed)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value += 0.1 * torch.rand(value.shape, generator=drawn)


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def clear(*modules: nn.Module) -> None:
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = None


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


@contextmanager
def passes(*modules: nn.Module) -> Iterator[list[int]]:
    """How often each module runs meanwhile."""
    counts = [0] * len(modules)

    def counter(place: int) -> Callable[..., None]:
        def count(module: nn.Module, args: object) -> None:
            counts[place] += 1

        return count

    hooks = [module.register_forward_pre_hook(counter(place)) for place, module in enumerate(modules)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def train_step(
    mixer: AdAutoMix, optimizers: list[torch.optim.Optimizer], images: Tensor, labels: Tensor
) -> list[float]:
    """One step of both players; both losses."""
    out = mixer(images, labels)
    for optimizer in optimizers:
        optimizer.zero_grad()
    out.classifier_loss.backward()
    out.generator_loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return [out.classifier_loss.item(), out.generator_loss.item()]


def optimizers_of(mixer: AdAutoMix, lr: float = 0.05) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(m.parameters(), lr, momentum=0.9) for m in (mixer.model, mixer.generator)]


def soft(labels: Tensor) -> Tensor:
    """Smoothed one-hot labels, different in each row."""
    return F.normalize(F.one_hot(labels, CLASSES).float() + torch.rand(len(labels), CLASSES, generator=seeded(5)), 1, 1)
