"""Small models, each with one way to call ReLU that a swap must get right, and how a swapped one is compared."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import relu as plain_relu
from torch.utils.checkpoint import checkpoint

from mixaug import DReLU
from mixaug.nn import caps


def outputs(model: nn.Module, x: Tensor, training: bool) -> list[Tensor]:
    """The outputs of a pass with fixed random numbers."""
    model.train(training)
    torch.manual_seed(3)
    out = model(x.clone())
    return [out] if isinstance(out, Tensor) else [value for value in out if value is not None]


def caps_at_medians(model: nn.Module, x: Tensor) -> set[str]:
    """Sets each cap just before its layer runs, so that the caps before it count; the names of the reached layers."""
    reached: set[str] = set()

    def note(layer: DReLU, args: tuple[Tensor], name: str) -> None:
        rows = args[0].detach().movedim(layer.dim, -1).flatten(0, -2)
        found = rows.where(rows > 0, torch.nan).nanmedian(0).values
        layer.max_value.data.copy_(torch.where(found > 0, found, layer.max_value))
        reached.update([name] if (found > 0).any() else [])

    hooks = [layer.register_forward_pre_hook(lambda m, a, name=name: note(m, a, name)) for name, layer in caps(model)]
    model(x.clone())
    for hook in hooks:
        hook.remove()
    return reached


class Shared(nn.Module):
    """One nn.ReLU at three widths, as in torchvision's Bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn(self.conv1(x)))
        out = self.drop(self.relu(self.conv2(out)))
        out = self.conv3(out)
        out += 1
        return self.relu(out).mean((2, 3))


class Functions(nn.Module):
    """Every function, by several names."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.partial = functools.partial(F.relu, inplace=True)
        self.function = torch.relu
        self.__private = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The docstring stays."""
        a = F.relu(self.fc(x))
        b = torch.relu(input=self.__private(self.fc(x)) - 0.1)
        c = nn.functional.relu6(self.fc(x) * 9, inplace=True)
        d = (self.fc(x) - 0.2).relu()
        e = plain_relu(self.fc(x) - 0.3, True)
        f = self.fc(x) - 0.4
        f.relu_()
        g = self.partial(self.fc(x) - 0.5) + self.function(self.fc(x) - 0.6)
        h = torch.relu_(self.fc(x) - 0.7) + torch.Tensor.relu(self.fc(x) - 0.8)
        return torch.cat([a, b, c, d, e, f, g, h, F.relu(0.4 - F.relu(self.fc(x)))], 1)


class Loop(nn.Module):
    """Lines that run several times in one pass, at different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(n + 3, n + 4, 1) for n in range(3))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        for conv in self.convs:
            y = conv(x)
            x = self.relu(y)
        return torch.cat([x, *[F.relu(part) for part in (y.mean((0, 2, 3), keepdim=True) - y).split(2, 1)]], 1)


class Nested(nn.Module):
    """A function in a method that a checkpoint runs a second time in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 5)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        def inner(x: Tensor) -> Tensor:
            return self.relu(self.fc2(self.relu(self.fc1(x)))) + (lambda y: F.relu(y))(self.fc2(self.fc1(x)))

        return checkpoint(inner, x, use_reentrant=False)


class Twice(nn.Sequential):
    """The same object at two places of a list."""

    def __init__(self) -> None:
        relu = nn.ReLU()
        super().__init__(nn.Linear(3, 4), relu, nn.Linear(4, 6), relu)


class Block(nn.Module):
    """ReLU from outside."""

    def __init__(self, relu: nn.Module, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, width)
        self.act = relu

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


class Owners(nn.Module):
    """One object held by two blocks, and one block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.a, self.b, self.c = Block(relu, 4), Block(relu, 5), Block(nn.ReLU6(), 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(self.c(x) * 20)], 1)


class Modes(nn.Module):
    """Other calls in training than in evaluation, a subclass of its own with zero-argument super()."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.relu(self.body(x))
        if self.training:
            return self.head(x), self.relu(self.aux(x))
        return self.relu(self.head(x))

    def extra_repr(self) -> str:
        return super().extra_repr() + "modes"


class Overwrites(nn.Module):
    """Reads what an in-place ReLU has overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.relu(x)
        y = x * 2
        F.relu(y[:, :2], inplace=True)
        return y


class ViaParent(nn.Module):
    """A parent that calls the ReLUs of its children, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(nn.ReLU(), 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0].act(x - 0.1)
        return self.blocks[0].act(self.blocks[0].fc(x))


class Private(nn.Module):
    """Names that Python mangles."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.__relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.__relu(self.fc(x)) + self.__relu(self.fc(x) - 0.1)


class WithClosure(nn.Module):
    """Made by :func:`with_closure`."""


def with_closure() -> nn.Module:
    act = F.relu

    class Inner(WithClosure):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return act(self.fc(x)) + act(self.fc(x) - len(super().extra_repr()) - 0.1)

    return Inner()


IMAGES = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
#: name -> (model, input, names of the sites, widths of the caps)
SMALL = {
    "shared": (Shared, IMAGES, ["relu.0", "relu.1", "relu.2"], [4, 6, 8]),
    "functions": (Functions, ROWS, [f"relu_calls.{i}" for i in range(12)], [5] * 12),
    "loop": (
        Loop,
        IMAGES,
        ["relu.0", "relu.1", "relu.2", "relu.3", "relu_calls.0", "relu_calls.1", "relu_calls.2"],
        [3, 4, 5, 6, 2, 2, 2],
    ),
    "nested": (Nested, ROWS, ["relu.0", "relu.1", "relu_calls.0"], [4, 5, 5]),
    "twice": (Twice, ROWS, ["1", "3"], [4, 6]),
    "owners": (Owners, ROWS, ["a.act", "b.act", "c.act"], [4, 5, 3]),
    "modes": (Modes, ROWS, ["relu.0", "relu.1", "relu.2"], [4, 5, 2]),
    "overwrites": (Overwrites, IMAGES, ["relu", "relu_calls.0"], [4, 2]),
    "via_parent": (ViaParent, ROWS, ["blocks.0.act.0", "blocks.0.act.1"], [3, 3]),
    "private": (Private, ROWS, ["_Private__relu.0", "_Private__relu.1"], [4, 4]),
    "closure": (with_closure, ROWS, ["relu_calls.0", "relu_calls.1"], [4, 4]),
}
