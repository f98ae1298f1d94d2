"""replace_relu: which sites it chooses, what it leaves and reports, what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from relu_models import IMAGES, ROWS, Block, Functions, Modes, Shared, Twice
from torch import Tensor, nn

from mixaug import DReLU, SReLU, add_drelu_head, replace_relu
from mixaug.models import build_model
from mixaug.nn import ReLUReport, ReLUSite, caps

pytestmark = pytest.mark.filterwarnings("ignore:outputs change:UserWarning")  # low caps, on purpose


def names(model: nn.Module) -> list[str]:
    return [site.name for site in model.relu_report.swapped]


_PLACES = ((1, 0), (2, 0), (3, 0), (4, 0), (4, 1))
RESNET = ["relu", *(f"layer{i}.{j}.relu.{k}" for i, j in _PLACES for k in (0, 1))]


def tiny_resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 2], num_classes=5)


def test_granularities():
    sizes = {"channel": [(4,), (6,), (8,)], "layer": [(1,)] * 3, "neuron": [(4, 5, 5), (6, 3, 3), (8, 3, 3)]}
    for granularity, wanted in sizes.items():
        model = replace_relu(Shared(), granularity=granularity, example_input=IMAGES)
        assert [tuple(layer.max_value.shape) for _, layer in caps(model)] == wanted
        assert model(IMAGES).shape == (16, 8)


def test_neurons_of_another_image_size_are_refused_by_name():
    model = replace_relu(Shared(), granularity="neuron", example_input=IMAGES)
    with pytest.raises(ValueError, match=r"relu\.0 must have the shape \(4, 6, 6\).*got \(4, 5, 5\)"):
        model(torch.zeros(2, 3, 6, 6))


def test_channels_of_layers_on_the_last_dimension():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 7, 1), nn.Linear(7, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x).flatten(2)).transpose(1, 2)  # (B, 7, L), then (B, L, 7)
            x = F.relu(x + 1)
            x = F.relu(self.fc(x) + 1)  # (B, L, 5)
            y = x.new_ones(2, 3, 3, 7)
            y = F.relu(self.fc(y) + x.sum())  # (2, 3, 3, 5)
            return F.relu(x.new_ones(2, 4, 3, 3) + y.sum())  # nothing is known: dimension 1

    model = replace_relu(Tokens(), example_input=IMAGES)
    assert [(site.channels, site.dim) for site in model.relu_report.swapped] == [
        (7, 1),
        (7, -1),
        (5, -1),
        (5, -1),
        (4, 1),
    ]


def test_srelu_and_functions():
    model = replace_relu(Shared(), SReLU, init=0.25, example_input=IMAGES)
    assert {layer.max_value.item() for layer in model.relu.values()} == {0.25}
    assert model.eval()(IMAGES).max() <= 0.25
    seen: list[ReLUSite] = []

    def make(site: ReLUSite) -> nn.Module:
        seen.append(site)
        return nn.Softplus()

    model = replace_relu(Shared(), make, example_input=IMAGES)
    assert [site.name for site in seen] == names(model) == ["relu.0", "relu.1", "relu.2"]
    assert seen[1] == ReLUSite("relu.1", "nn.ReLU", (6, 3, 3), 1, 1, True)
    assert all(isinstance(layer, nn.Softplus) for layer in model.relu.values())
    assert replace_relu(model, make, example_input=IMAGES).relu_report.count == 0


def test_report_as_a_table():
    model = replace_relu(Shared(), example_input=IMAGES, names="relu.1")
    assert str(model.relu_report) == (
        "1 site swapped in this call, 1 in all, 2 left\n"
        "swapped  relu.1  nn.ReLU  6x3x3  in place\n"
        "left     relu.0  nn.ReLU  4x5x5  not chosen\n"
        "left     relu.2  nn.ReLU  8x3x3  not chosen"
    )


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"names": "layer4.*"}, ["layer4.0.relu.0", "layer4.0.relu.1", "layer4.1.relu.0", "layer4.1.relu.1"]),
        ({"names": ["relu", "layer1.0.relu.1"]}, ["relu", "layer1.0.relu.1"]),
        ({"last": 3}, ["layer4.0.relu.1", "layer4.1.relu.0", "layer4.1.relu.1"]),
        ({"last": "block"}, ["layer4.1.relu.0", "layer4.1.relu.1"]),
        ({"where": lambda site: site.channels == 256}, ["layer3.0.relu.0", "layer3.0.relu.1"]),
        (
            {"names": "*.1", "last": 4, "where": lambda s: s.order % 2 == 0},
            ["layer4.0.relu.1", "layer4.1.relu.1"],
        ),
        ({"last": 100}, None),
    ],
)
def test_choice(choice, wanted):
    model = tiny_resnet()
    replace_relu(model, example_input=torch.zeros(1, 3, 32, 32), **choice)
    report = model.relu_report
    assert names(model) == (RESNET if wanted is None else wanted)
    assert [name for name, _ in caps(model)] == names(model)
    assert sorted(names(model) + [site.name for site, _ in report.left]) == sorted(RESNET)
    assert {reason for _, reason in report.left} <= {"not chosen"}
    again = replace_relu(model, example_input=torch.zeros(1, 3, 32, 32), **choice)
    assert (again.relu_report.count, names(again)) == (0, names(model))


@pytest.mark.parametrize("make", [Shared, Functions, Modes, Twice])
def test_in_parts_as_at_once(make):
    x = IMAGES if make is Shared else ROWS
    torch.manual_seed(0)
    once = make()
    parts = copy.deepcopy(once)
    replace_relu(once, init=0.1, example_input=x)
    replace_relu(parts, init=0.1, example_input=x, last=1)
    first = names(parts)
    replace_relu(parts, init=0.1, example_input=x, last=2)
    assert len(first) == parts.relu_report.count == 1
    replace_relu(parts, init=0.1, example_input=x)
    assert parts.relu_report.count == len(names(once)) - 2
    assert parts.relu_report.swapped == once.relu_report.swapped
    assert parts.relu_report.left == ()
    assert sorted(parts.state_dict()) == sorted(once.state_dict())
    assert torch.equal(once.eval()(x.clone()), parts.eval()(x.clone()))


def test_blocks_of_several_kinds():
    model = torchvision.models.squeezenet1_1(num_classes=3)
    replace_relu(model, last="block", example_input=torch.zeros(1, 3, 64, 64))
    assert names(model) == [f"features.12.{n}_activation" for n in ("squeeze", "expand1x1", "expand3x3")]
    model = torchvision.models.mobilenet_v2(num_classes=3)
    replace_relu(model, last="block", example_input=torch.zeros(1, 3, 64, 64))
    assert names(model) == ["features.17.conv.0.2", "features.17.conv.1.2"]
    with pytest.raises(ValueError, match="repeated blocks"):
        replace_relu(Twice(), last="block", example_input=ROWS)


def test_a_swapped_model_is_returned_as_it_is():
    model = replace_relu(Shared(), example_input=IMAGES)
    modules, before = list(model.modules()), model.relu_report
    assert replace_relu(model, example_input=IMAGES) is model
    assert [id(module) for module in model.modules()] == [id(module) for module in modules]
    assert model.relu_report == ReLUReport(before.swapped, (), 0)
    assert replace_relu(nn.Sequential(nn.Linear(3, 4), DReLU(4))).relu_report == ReLUReport((), (), 0)


def test_a_layer_that_was_put_back_is_swapped_again():
    model = replace_relu(Twice(), example_input=ROWS)
    model[1] = nn.ReLU()
    replace_relu(model, example_input=ROWS)
    assert (model.relu_report.count, names(model)) == (1, ["1", "3"])


def test_a_swapped_part_of_a_larger_model_stays_as_it_is():
    part = replace_relu(Shared(), init=0.5, example_input=IMAGES, names="relu.0")
    model = replace_relu(nn.Sequential(part, nn.ReLU()), example_input=IMAGES)
    assert names(model) == ["0.relu.1", "0.relu.2", "1"]
    assert [layer.init for _, layer in caps(model)] == [0.5, 100.0, 100.0, 100.0]


def test_a_relu_alone():
    x = torch.zeros(2, 5)
    assert isinstance(replace_relu(nn.ReLU(), example_input=x), DReLU)
    layer = replace_relu(nn.ReLU6(inplace=True).eval(), example_input=x)
    assert (tuple(layer.max_value.shape), layer.init, layer.inplace, layer.training) == ((5,), 6.0, True, False)
    assert layer.relu_report.count == 1
    assert not replace_relu(nn.ReLU()).initialised
    assert isinstance(replace_relu(nn.ReLU(), SReLU, init=2), SReLU)


def test_no_example_input():
    for name in ("lenet5", "resnet-small", "wrn-40-4", "resnext29"):
        model = build_model(name, 10)
        replace_relu(model)
        assert model.relu_report.left == ()
        assert len(names(model)) == {"lenet5": 4, "resnet-small": 9, "wrn-40-4": 37, "resnext29": 28}[name]
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_after_the_head():
    model = add_drelu_head(tiny_resnet(), 16)
    head = {name for name, _ in caps(model)}
    replace_relu(model, example_input=torch.zeros(1, 3, 32, 32))
    assert model.relu_report.count == 11
    assert {name for name, _ in caps(model)} == head | set(names(model))


# What is left, and why.


def only_functions(x: Tensor) -> Tensor:
    return F.relu(x)


class MyReLU(nn.ReLU):
    pass


class Base(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class Through(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Left(nn.Module):
    """One of each that cannot be swapped, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.ReLU()
        self.mine = MyReLU()
        self.never = nn.ReLU()
        self.through = Through()
        self.replaced = Base()
        self.replaced.forward = lambda x: F.relu(x)  # type: ignore[method-assign]
        self.own = Base()
        self.own.forward = self.own.forward  # type: ignore[method-assign]
        self.hidden = [nn.ReLU()]
        self.inplace = False
        self.recurrent = nn.RNN(3, 3, nonlinearity="relu", batch_first=True)
        self.other = lambda x: F.relu(x) + 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.fine(x) + self.mine(x) + self.through(x) + self.replaced(x) + self.own(x) + self.hidden[0](x)
        x = x + only_functions(x) + F.relu(x, inplace=self.inplace) + self.other(x)
        x = x + sum(map(F.relu, [x])) + self.recurrent(x[:, None])[0][:, 0]
        relu = F.relu
        return relu(x)


def test_what_cannot_be_swapped_is_left_with_the_reason():
    torch.manual_seed(0)
    model = Left()
    original = copy.deepcopy(model)
    replace_relu(model, init=1e-3, example_input=ROWS)
    assert names(model) == ["fine"]
    found = {site.name: reason for site, reason in model.relu_report.left}
    assert found == {
        "mine": "MyReLU is a subclass of ReLU",
        "never": "not reached in the recording pass",
        "through.torch.relu": "Base.forward runs through super()",
        "replaced.F.relu": "it is in Left.__init__.<locals>.<lambda>, which is not a method of a module",
        "own.torch.relu": "Base.forward was replaced in this instance",
        "ReLU": "this ReLU is not registered in a module",
        "F.relu": "it is in only_functions, which is not a method of a module",
        "F.relu#1": "it is in Left.__init__.<locals>.<lambda>, which is not a method of a module",
        "F.relu#2": "whether it is in place is decided in Left.forward while it runs",
        "F.relu#3": "Left.forward calls it by a name that may stand for something else",
        "F.relu#4": "Left.forward calls it by a name that may stand for something else",
        "recurrent.nn.RNN": "it is within a fused recurrent layer",
    }
    with torch.no_grad():
        model.fine.max_value.fill_(1e30)
    assert torch.equal(model.eval()(ROWS), original.eval()(ROWS))
    assert type(model) is Left


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_submodules_are_left():
    block = torch.jit.script(Block(nn.ReLU(), 3))
    model = nn.Sequential(block, nn.ReLU())
    replace_relu(model, example_input=ROWS)
    assert names(model) == ["1"]
    assert [(site.name, reason) for site, reason in model.relu_report.left] == [("0", "it is TorchScript")]
    with pytest.raises(ValueError, match="scripted"):
        replace_relu(block, example_input=ROWS)


def test_a_relu_that_is_held_elsewhere_too_is_left():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.other = nn.ReLU(), nn.ReLU()
            self.alias = [self.relu]

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.alias[0](x) - 1)

    model = replace_relu(Both(), example_input=ROWS)
    assert names(model) == ["other"]
    reason = "something else than a module holds and calls it"
    assert [(site.name, why) for site, why in model.relu_report.left] == [("relu", reason)]


def test_without_source_nothing_is_guessed():
    namespace: dict[str, type[nn.Module]] = {"nn": nn, "F": F}  # type: ignore[dict-item]
    exec(
        "class Bare(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.relu, self.one = nn.ReLU(), nn.ReLU()\n"
        "    def forward(self, x):\n"
        "        return self.one(self.relu(F.relu(x)) + self.relu(x))\n",
        namespace,
    )
    model = namespace["Bare"]()
    original = copy.deepcopy(model)
    replace_relu(model, init=1e30, example_input=ROWS)
    assert names(model) == ["one"]
    assert all("the source of Bare.forward cannot be read" in reason for _, reason in model.relu_report.left)
    assert len(model.relu_report.left) == 3
    assert torch.equal(model(ROWS), original(ROWS))


def test_a_function_in_a_method_that_runs_several_times_is_left():
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            def act(x: Tensor) -> Tensor:
                return F.relu(x)

            return act(act(x) - 0.1)

    model = replace_relu(Inner(), example_input=ROWS)
    reason = "a function in test_a_function_in_a_method_that_runs_several_times_is_left.<locals>.Inner.forward"
    assert [why for _, why in model.relu_report.left] == [f"{reason} runs several times"]
    assert type(model) is Inner


def test_widths_that_differ_in_one_place_are_left():
    class Helper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 5)

        def act(self, x: Tensor) -> Tensor:
            return self.relu(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.b(self.act(self.a(x))))

    model = replace_relu(Helper(), granularity="layer", example_input=ROWS)
    assert names(model) == ["relu"]
    model = replace_relu(Helper(), example_input=ROWS)
    assert [(site.name, why) for site, why in model.relu_report.left] == [("relu", "its input has 4 and 5 channels")]


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"granularity": "unit"}, ValueError, "granularity must be one of channel, layer, neuron, got 'unit'"),
        ({"init": 0}, ValueError, r"init must be from 1\.1\S+ to 3\.4\S+, got 0"),
        ({"init": math.nan}, ValueError, r"init must be from 1\.1\S+ to 3\.4\S+, got nan"),
        ({"init": "100"}, TypeError, "init must be a number, got str"),
        ({"init": True}, TypeError, "init must be a number, got bool"),
        ({"activation": DReLU(3)}, TypeError, "activation must be DReLU"),
        ({"activation": "drelu"}, TypeError, "activation must be DReLU"),
        ({"activation": lambda site: 3}, TypeError, "activation must give an nn.Module, got int for relu.0"),
        ({"activation": lambda site: DReLU(7)}, ValueError, "must have the shape"),
        ({"names": 3}, TypeError, "names must be a pattern"),
        ({"names": [3]}, TypeError, "names must be a pattern"),
        ({"names": []}, TypeError, "names must be a pattern"),
        ({"names": "relu.7"}, ValueError, r"'relu.7'.*none; close: \['relu"),
        ({"names": ["relu.1", "body*"]}, ValueError, r"'body\*'"),
        ({"last": 0}, ValueError, "last must be at least 1, got 0"),
        ({"last": "stage"}, TypeError, "last must be an int"),
        ({"last": True}, TypeError, "last must be an int"),
        ({"where": "relu"}, TypeError, "where must be a function"),
        ({"where": lambda site: 1 / 0}, ZeroDivisionError, "division"),
        ({"example_input": torch.zeros(2, 3, 5, 5, dtype=torch.uint8)}, TypeError, "torch.uint8"),
        ({"example_input": "images"}, TypeError, "example_input must be a tensor"),
        ({"example_input": torch.zeros(2, 4, 5, 5)}, ValueError, r"example_input of shape \(2, 4, 5, 5\)"),
    ],
)
def test_bad_input_leaves_the_model(arguments, error, message):
    model = Shared()
    children, relu = dict(model._modules), model.relu
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        replace_relu(model, **{"example_input": IMAGES} | arguments)
    assert type(model) is Shared
    assert list(model._modules.items()) == list(children.items())
    assert model.relu is relu and type(relu) is nn.ReLU
    assert not hasattr(model, "relu_report")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_models_that_are_refused():
    with pytest.raises(TypeError, match="got function"):
        replace_relu(only_functions)
    with pytest.raises(ValueError, match="model must have a ReLU, got a Sequential without one"):
        replace_relu(nn.Sequential(nn.Linear(3, 4), nn.GELU()))
    with pytest.raises(ValueError, match="DataParallel: swap first, then wrap"):
        replace_relu(nn.DataParallel(Shared()), example_input=IMAGES)
    with pytest.raises(ValueError, match="'0': swap first, then wrap"):
        replace_relu(nn.Sequential(nn.DataParallel(Shared())), example_input=IMAGES)
    with pytest.raises(ValueError, match="swap first, then compile"):
        replace_relu(torch.compile(Shared()), example_input=IMAGES)
    inner = Shared()
    inner.compile()
    with pytest.raises(ValueError, match="swap first, then compile"):
        replace_relu(nn.Sequential(inner), example_input=IMAGES)
    with pytest.raises(ValueError, match=r"the size of 0\.weight is not known yet"):
        replace_relu(nn.Sequential(nn.LazyLinear(3), nn.ReLU()))
