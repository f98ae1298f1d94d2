"""Attacks written out slowly, one image and one step at a time, and what the tests of the attacks share."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mixaug.attacks import APGD, CWL2, FGSM, KLPGD, PGD, SPSA, CWLinf, FeatureScatter, Square
from mixaug.attacks.attack import Attack

CLASSES = 5

#: Small settings of every attack; each takes a generator. AutoAttack is apart, since it takes seconds.
ATTACKS: dict[str, Callable[[torch.Generator | None], Attack]] = {
    "fgsm": lambda g: FGSM(0.05, random_start=True, generator=g),
    "pgd": lambda g: PGD(0.05, 0.02, 3, generator=g),
    "pgd-targeted": lambda g: PGD(0.05, 0.02, 3, True, generator=g),
    "pgd-l2": lambda g: PGD(0.5, 0.2, 3, generator=g, norm="l2"),
    "pgd-early": lambda g: PGD(0.05, 0.02, 3, generator=g, early_stop=True),
    "cw": lambda g: CWLinf(0.05, 0.02, 3, generator=g),
    "kl-pgd": lambda g: KLPGD(0.05, 0.02, 3, g),
    "feature-scatter": lambda g: FeatureScatter(0.05, generator=g),
    "spsa": lambda g: SPSA(0.05, steps=3, samples=4, generator=g),
    "spsa-early": lambda g: SPSA(0.05, steps=3, samples=4, generator=g, early_stop=True),
    "cw-l2": lambda g: CWL2(10, 0.05, 4, targeted=True, generator=g),
    "apgd-ce": lambda g: APGD(0.05, 4, generator=g),
    "apgd-dlr": lambda g: APGD(0.05, 4, "dlr", generator=g),
    "square": lambda g: Square(0.05, 8, generator=g),
    "square-l2": lambda g: Square(3.0, 30, generator=g, norm="l2"),
}
#: Radius of those in ATTACKS that have one, and its norm.
RADIUS = {name: (0.5, "l2") if name.endswith("l2") else (0.05, "linf") for name in ATTACKS if name != "cw-l2"}
RADIUS["square-l2"] = (3.0, "l2")  # at less it fools no image and draws nothing that shows

HAS_PYAUTOATTACK = importlib.util.find_spec("pyautoattack") is not None
FOREIGN = ("apgd-ce", "apgd-dlr", "square", "square-l2", "autoattack")
needs_pyautoattack = pytest.mark.skipif(not HAS_PYAUTOATTACK, reason="needs the extra mixaug[attacks]")


def each_attack(*without: str) -> pytest.MarkDecorator:
    """Parametrises ``make`` with every attack of ATTACKS but those left out."""
    cases = [
        pytest.param(make, id=name, marks=[needs_pyautoattack] if name in FOREIGN else [])
        for name, make in ATTACKS.items()
        if name not in without
    ]
    return pytest.mark.parametrize("make", cases)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(size: tuple[int, int] = (8, 10), classes: int = CLASSES) -> nn.Sequential:
    """Convolution, batch norm, dropout and a linear layer, with weights large enough to be fooled; in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        height, width = size
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(6 * (height - 2) * (width - 2), classes),
        )
        model[1].running_mean.uniform_(-0.1, 0.1)
        model[1].running_var.uniform_(0.5, 2)
    return model.eval()


def batch(count: int = 6, size: tuple[int, int] = (8, 10), classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    draws = generator(1)
    return torch.rand(count, 3, *size, generator=draws), torch.randint(classes, (count,), generator=draws)


def state_of(model: nn.Module):
    """Everything that an attack must leave: modes, parameters and buffers, requires_grad and gradients."""
    return (
        [module.training for module in model.modules()],
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        [p.grad for p in model.parameters()],
    )


def same_state(one, two) -> bool:
    tensors = all(torch.equal(one[1][name], two[1][name]) for name in one[1])
    gradients = all(
        a[0] == b[0] and (a[1] is None) == (b[1] is None) and (a[1] is None or torch.equal(a[1], b[1]))
        for a, b in zip(one[2], two[2], strict=True)
    )
    objects = all(a is b for a, b in zip(one[3], two[3], strict=True))
    return one[0] == two[0] and tensors and gradients and objects


class Counting(nn.Module):
    """Counts passes and images, and does ``spoil`` to the logits from the given pass on."""

    def __init__(self, model, spoil=None, at=1):
        super().__init__()
        self.model = model
        self.spoil = spoil
        self.at = at
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        logits = self.model(images)
        return self.spoil(logits) if self.spoil and len(self.sizes) >= self.at else logits


def pgd_by_hand(model, images, labels, eps, step_size, steps, seed, targeted=False):
    """PGD in l-infinity on the cross entropy, as everybody writes it; labels may be probabilities."""
    draws = generator(seed)
    model = copy.deepcopy(model).eval()
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    x = torch.clamp(images + eps * (2 * torch.rand(images.shape, generator=draws) - 1), low, high)
    if targeted:
        labels = (labels + torch.randint(1, CLASSES, labels.shape, generator=draws)) % CLASSES
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = cross_entropy(model(x), labels, reduction="sum")
        gradient = torch.autograd.grad(loss, x)[0]
        step = (-1 if targeted else 1) * step_size * gradient.sign()
        x = torch.clamp(x + step, low, high)
    return x.detach()


def pgd_l2_by_hand(model, images, labels, eps, step_size, steps):
    """PGD in l2 from the image itself, one image at a time."""
    results = []
    for image, label in zip(images, labels, strict=True):
        x = image
        for _ in range(steps):
            x = x.detach().requires_grad_()
            gradient = torch.autograd.grad(cross_entropy(model(x[None])[0], label), x)[0]
            x = x.detach() + step_size * gradient / gradient.norm()
            change = x - image
            if change.norm() > eps:
                x = image + eps * change / change.norm()
            x = x.clamp(0, 1)
        results.append(x.detach())
    return torch.stack(results)


def early_stop_by_hand(model, images, labels, eps, step_size, steps):
    """For each image the first iterate of PGD (no random start) that is misclassified, or the last one."""
    results = []
    for image, label in zip(images, labels, strict=True):
        x = image
        for _ in range(steps):
            x = x.detach().requires_grad_()
            logits = model(x[None])
            if logits.argmax() != label:
                break
            gradient = torch.autograd.grad(cross_entropy(logits[0], label), x)[0]
            x = torch.clamp(x + step_size * gradient.sign(), image - eps, image + eps).clamp(0, 1)
        results.append(x.detach())
    return torch.stack(results)


def trades_by_hand(model, images, eps, step_size, steps, seed):
    """The inner loop of TRADES as its authors publish it, but for the start, which is clipped."""
    model = copy.deepcopy(model).eval()
    x = images + 0.001 * torch.randn(images.shape, generator=generator(seed))
    x = torch.clamp(x, (images - eps).clamp(0, 1), (images + eps).clamp(0, 1))
    criterion = nn.KLDivLoss(reduction="sum")
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = criterion(model(x).log_softmax(1), model(images).softmax(1))
        gradient = torch.autograd.grad(loss, x)[0]
        x = x.detach() + step_size * gradient.sign()
        x = torch.min(torch.max(x, images - eps), images + eps).clamp(0, 1)
    return x


def margin_by_hand(logits, labels):
    return torch.stack(
        [
            max(z[j] for j in range(len(z)) if j != label) - z[label]
            for z, label in zip(logits, labels.tolist(), strict=True)
        ]
    )


def spsa_by_hand(model, images, labels, eps, step_size, steps, samples, delta, seed):
    """SPSA up the margin: difference quotients along drawn signs, torch's own Adam, then back into the ball."""
    draws = generator(seed)
    x = images.clone()
    variable = nn.Parameter(x.clone())
    adam = torch.optim.Adam([variable], lr=step_size)
    for _ in range(steps):
        slope = torch.zeros_like(x)
        for _ in range(samples):
            signs = 2 * torch.randint(0, 2, images.shape, generator=draws, dtype=torch.int8).float() - 1
            with torch.no_grad():
                ahead = margin_by_hand(model(x + delta * signs), labels)
                behind = margin_by_hand(model(x - delta * signs), labels)
            slope += ((ahead - behind) / (2 * delta)).view(-1, 1, 1, 1) * signs
        with torch.no_grad():
            variable.copy_(x)
        variable.grad = -slope / samples
        adam.step()
        x = torch.clamp(variable.detach(), images - eps, images + eps).clamp(0, 1)
    return x


def transport_by_hand(one, two, regularisation, rounds):
    """Sinkhorn on plain numbers in float64, loop by loop: the plan and the cost matrix."""
    size = len(one)
    cost = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            a, b = one[i].double(), two[j].double()
            cost[i, j] = 1 - (a @ b) / (a.norm() * b.norm())
    kernel = [[math.exp(-cost[i, j].item() / regularisation) for j in range(size)] for i in range(size)]
    rows, columns = [1.0] * size, [1.0] * size
    for _ in range(rounds):
        rows = [1 / size / sum(kernel[i][j] * columns[j] for j in range(size)) for i in range(size)]
        columns = [1 / size / sum(kernel[i][j] * rows[i] for i in range(size)) for j in range(size)]
    plan = [[rows[i] * kernel[i][j] * columns[j] for j in range(size)] for i in range(size)]
    return torch.tensor(plan, dtype=torch.float64), cost


def feature_scatter_by_hand(model, images, start, eps, step_size, steps):
    """Feature Scatter's climb from a given start: the plan number by number, then the gradient with the plan held."""
    clean = model(images).detach()
    x = start
    for _ in range(steps):
        x = x.detach().requires_grad_()
        logits = model(x)
        plan, _ = transport_by_hand(clean, logits.detach(), 0.01, 50)
        cost = torch.zeros(())
        for i in range(len(images)):
            for j in range(len(images)):
                cosine = (clean[i] @ logits[j]) / (clean[i].norm() * logits[j].norm())
                cost = cost + plan[i, j] * (1 - cosine)
        gradient = torch.autograd.grad(cost, x)[0]
        x = torch.clamp(x.detach() + step_size * gradient.sign(), images - eps, images + eps).clamp(0, 1)
    return x
