"""The head and the stem with D-ReLU: on every classifier, only where they belong, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams
from torchvision.models.vision_transformer import VisionTransformer

from mixaug.models import MODELS, Normalize, build_model
from mixaug.nn import DReLU, SReLU, add_drelu_head, add_drelu_stem
from mixaug.nn.trace import look_at

PARTS = ("dense", "activation", "output")
FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_32",
)
SMALL = (  # what runs fast; all others are looked at on the meta device
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


def heads_of(model: nn.Module) -> dict[str, nn.Sequential]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential) and tuple(module._modules) == PARTS
    }


def snapshot(model: nn.Module) -> tuple[list[tuple[str, int, bool]], dict[str, torch.Tensor]]:
    modules = [(name, id(module), module.training) for name, module in model.named_modules()]
    return modules, {key: value.clone() for key, value in model.state_dict().items()}


def torchvision_model(name: str, num_classes: int) -> nn.Module:
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **more)


@pytest.fixture
def regnets_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = BlockParams.from_init_params.__func__

    def on_cpu(cls: type, *args: object, **more: object) -> BlockParams:  # it computes its widths with tensors
        with torch.device("cpu"):
            return widths(cls, *args, **more)

    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(on_cpu))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.usefixtures("regnets_on_meta")
def test_every_torchvision_family_gets_a_head_before_its_logits(name: str):
    with torch.device("meta"):
        model = torchvision_model(name, 17)
    before = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    assert add_drelu_head(model, 8) is model
    after = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    ((place, head),) = heads_of(model).items()
    lost, new = before.keys() - after.keys(), after.keys() - before.keys()
    assert {key.rsplit(".", 1)[0] for key in lost} == {place}
    assert {key.removeprefix(place + ".").split(".")[0] for key in new} == set(PARTS)
    assert all(after[key] == before[key] for key in before.keys() & after.keys())
    assert len(head.output.weight) == 17
    assert head.activation.max_value.shape == (8,)
    assert {parameter.device.type for parameter in head.parameters()} == {"meta"}


@pytest.mark.parametrize("name", SMALL)
def test_outputs_and_gradients_of_each_family(name: str):
    torch.manual_seed(0)
    model = torchvision_model(name, 6).eval()
    with torch.no_grad():
        expected = model(torch.zeros(2, 3, 32, 32)).shape
    kept = set(model.state_dict())
    add_drelu_head(model, 16)
    ((place, head),) = heads_of(model).items()
    assert not head.training
    assert kept - set(model.state_dict()) == {f"{place}.weight", f"{place}.bias"}
    with torch.no_grad():
        head.activation.max_value[:8] = 1e-6  # some units cap, so that the caps get a gradient
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    for part in (*head.parameters(), next(model.parameters())):
        assert part.grad is not None
        assert part.grad.abs().sum() > 0
    assert model(torch.rand(2, 3, 32, 32)).shape == expected == (2, 6)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 32), ("inception_v3", 299)])
def test_auxiliary_heads_are_left_alone(name: str, side: int):
    with torch.device("meta"):
        model = torchvision_model(name, 6)
    auxiliary = {key: module for key, module in model.named_modules() if key.startswith(("aux", "AuxLogits"))}
    assert any(isinstance(module, nn.Linear) for module in auxiliary.values())
    add_drelu_head(model, 4)
    assert list(heads_of(model)) == ["fc"]
    now = dict(model.named_modules())
    assert all(now[key] is module for key, module in auxiliary.items())
    assert model.training
    outputs = model(torch.empty(2, 3, side, side, device="meta"))
    assert [logits.shape for logits in outputs] == [(2, 6)] * (3 if name == "googlenet" else 2)


@pytest.mark.parametrize("name", MODELS)
def test_our_models(name: str):
    with torch.device("meta"):
        model = build_model(name, 7, 1, 28)
    add_drelu_head(model, 12)
    ((_, head),) = heads_of(model).items()
    assert head.output.out_features == 7
    assert model(torch.empty(3, 1, 28, 28, device="meta")).shape == (3, 7)


def test_small_vision_transformer_is_guessed_by_its_own_size():
    model = VisionTransformer(24, 8, 1, 2, 16, 32, num_classes=6)  # no usual size: it says its own
    add_drelu_head(model, 4)
    assert list(heads_of(model)) == ["heads.head"]
    assert model(torch.rand(2, 3, 24, 24)).shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("resnet10t", ["fc"]),
        ("test_vit", ["head"]),
        ("deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
        ("levit_128s", ["head.linear", "head_dist.linear"]),
        ("tf_efficientnet_b0", ["classifier"]),
        ("mobilenetv3_small_050", ["classifier"]),
        ("convnext_atto", ["head.fc"]),
        ("vgg11", ["head.fc"]),
        ("swin_tiny_patch4_window7_224", ["head.fc"]),
    ],
)
def test_timm(name: str, places: list[str] | None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
        if not timm.is_model(name):
            pytest.skip(f"this timm has no {name}")
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=6)
        except NotImplementedError:  # numbers of its depths are read from tensors
            model = timm.create_model(name, num_classes=6)
    add_drelu_head(model, 4)
    assert list(heads_of(model)) == places
    assert all(head.output.out_features == 6 for head in heads_of(model).values())


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_a_dense_network_are_guessed_from_its_width(channels: int):
    normalise = Normalize([0.5] * channels, [0.5] * channels)  # takes (B, C, H, W) alone
    model = nn.Sequential(normalise, nn.Flatten(), nn.Linear(channels * 26**2, 9), nn.ReLU(), nn.Linear(9, 5))
    assert list(heads_of(add_drelu_head(model, 4))) == ["4"]


def test_a_model_that_cannot_run_on_meta_is_run_and_left_as_it_was():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.fc = nn.Linear(3, 5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            shift = float(x.mean()) * float(torch.rand(()))  # needs data
            return self.fc(self.norm(x).mean((2, 3)) + shift)

    model = Reads()
    model.norm.eval()
    model.fc.weight.requires_grad_(False)
    state = {key: value.clone() for key, value in model.norm.state_dict().items()}
    images = torch.rand(2, 3, 4, 4)
    random = torch.get_rng_state()
    add_drelu_head(model, 2, activation=nn.ReLU, example_input=images)
    assert list(heads_of(model)) == ["fc"]
    assert float(model.calls) == 0
    assert (model.training, model.norm.training, model.fc.training) == (True, False, True)
    assert all(torch.equal(value, state[key]) for key, value in model.norm.state_dict().items())
    torch.set_rng_state(random)
    first, last = nn.Linear(3, 2), nn.Linear(2, 5)  # nothing else was drawn
    assert torch.equal(model.fc.dense.weight, first.weight)
    assert torch.equal(model.fc.output.weight, last.weight)


def test_large_caps_are_the_baseline():
    torch.manual_seed(3)
    plain = add_drelu_head(small_cnn(), 16, activation=nn.ReLU)
    torch.manual_seed(3)
    capped = add_drelu_head(small_cnn(), 16, init=1e9)
    assert isinstance(plain[5].activation, nn.ReLU)
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(plain(images), capped(images))
    with torch.no_grad():
        capped[5].activation.max_value.fill_(1e-3)
    assert not torch.equal(plain(images), capped(images))


def test_other_activations():
    assert add_drelu_head(small_cnn(), 4, activation=SReLU, init=2.0)[5].activation.max_value == 2
    assert isinstance(add_drelu_head(small_cnn(), 4, activation=lambda: nn.ELU(0.5))[5].activation, nn.ELU)


def test_training_lowers_the_loss_and_moves_the_caps():
    torch.manual_seed(0)
    model = add_drelu_head(small_cnn(), 16, init=0.05)
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16) % 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert (model[5].activation.max_value != 0.05).any()


def test_convolution_as_output_layer_has_caps_for_channels():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    add_drelu_head(model, 6, init=0.25)
    head = model[1]
    assert (head.dense.kernel_size, head.output.kernel_size) == ((1, 1), (1, 1))
    features = torch.rand(2, 8, 4, 5)
    assert torch.equal(head.activation(features[:, :6]), features[:, :6].clamp(max=0.25))
    with torch.no_grad():
        head.activation.max_value.copy_(torch.arange(6) / 10)
    assert torch.equal(head.activation(torch.ones(1, 6, 2, 2))[0, :, 1, 0], torch.arange(6) / 10)
    assert torch.equal(head.activation(torch.ones(6, 2, 2))[:, 1, 0], torch.arange(6) / 10)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 5)


def test_tokens_have_caps_for_features():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 5, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(x)).mean(1)

    model = add_drelu_head(Tokens(), 6, example_input=torch.zeros(2, 7, 4))
    assert model(torch.rand(3, 7, 4)).shape == (3, 5)
    with torch.no_grad():
        model.head.activation.max_value.copy_(torch.arange(6.0))
    assert torch.equal(model.head.activation(torch.full((1, 7, 6), 9.0))[0, 3], torch.arange(6.0))
    assert model.head.dense.bias is None
    assert model.head.output.bias is None


def test_the_layer_on_the_way_to_the_outputs_is_taken_not_the_last_that_ran():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.other = nn.Linear(4, 5), nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.fc(x)
            self.seen = self.other(logits).detach()
            return logits

    assert list(heads_of(add_drelu_head(Beside(), 2))) == ["fc"]


@pytest.mark.parametrize("add", [add_drelu_head, add_drelu_stem])
def test_a_layer_that_runs_first_and_last(add: Callable):
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer, self.inner = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outer(self.inner(self.outer(x))).mean((2, 3))

    model = add(Around(), 3)
    assert isinstance(model.outer, nn.Sequential)
    assert isinstance(model.inner, nn.Conv2d)


def test_a_layer_of_two_names_is_replaced_at_both():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 5)
            self.classifier = self.fc

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(x)

    model = add_drelu_head(Twice(), 2)
    assert isinstance(model.fc, nn.Sequential)
    assert model.fc is model.classifier


def test_model_that_is_the_output_layer():
    layer = nn.Linear(4, 5)
    model = add_drelu_head(layer, 3)
    assert list(heads_of(model)) == [""]
    assert model(torch.rand(2, 4)).shape == (2, 5)
    with pytest.raises(ValueError, match="already has a D-ReLU head"):
        add_drelu_head(model, 3)


def test_dtype_and_device_of_the_output_layer():
    double = add_drelu_head(small_cnn().double(), 3)
    assert {parameter.dtype for parameter in double[5].parameters()} == {torch.float64}
    half = add_drelu_head(small_cnn().to(torch.bfloat16), 3)
    assert half[5].dense.weight.dtype == half[5].output.weight.dtype == torch.bfloat16
    assert half[5].activation.max_value.dtype == torch.float32
    assert half(torch.rand(2, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with torch.device("meta"):
        model = small_cnn()
    assert {parameter.device.type for parameter in add_drelu_head(model, 3).parameters()} == {"meta"}


def test_copies_and_saves():
    model = add_drelu_head(small_cnn(), 3).eval()
    images = torch.rand(2, 3, 8, 8)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), model(images))
    other = add_drelu_head(small_cnn(), 3).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), model(images))


def test_without_gradients_and_in_inference_mode():
    first, second = small_cnn(), small_cnn()
    with torch.inference_mode():
        add_drelu_head(first, 3)
    with torch.no_grad():
        add_drelu_head(second, 3)
    for model in (first, second):
        model(torch.rand(2, 3, 8, 8)).square().sum().backward()
        assert model[5].activation.max_value.grad is not None
        assert model[5].dense.weight.grad.abs().sum() > 0


def bad_models() -> dict[str, tuple[Callable[[], nn.Module], str]]:
    class Needs(nn.Module):  # it reads the weights of its output layer
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.to(self.fc.weight.dtype))

    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.fc(x + y)

    def spectral() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)))

    def compiled_in_place() -> nn.Module:
        model = small_cnn()
        model.compile()
        return model

    return {
        "norm last": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)), "got LayerNorm at '1'"),
        "3x3 last": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten()), "got Conv2d at '0'"),
        "no weights": (lambda: nn.Sequential(nn.Flatten()), "what ran last: .*Flatten at '0'"),
        "cannot run": (Needs, "left as it was"),
        "two inputs": (TwoInputs, "give example_input"),
        "head": (lambda: add_drelu_head(small_cnn(), 3), "already has a D-ReLU head, at '5'"),
        "parametrized": (spectral, "'1' has a parametrization"),
        "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "called once: the size of 0.weight"),
        "parallel": (lambda: nn.DataParallel(small_cnn()), "a DataParallel: add the head first, then wrap"),
        "parallel inside": (lambda: nn.Sequential(nn.DataParallel(small_cnn())), "DataParallel at '0': add the head"),
        "compiled": (lambda: torch.compile(small_cnn()), "add the head first, then compile"),
        "compiled in place": (compiled_in_place, "add the head first, then compile"),
    }


@pytest.mark.parametrize("case", bad_models())
def test_refused_models_stay_as_they_were(case: str):
    build, message = bad_models()[case]
    model = build()
    before = None if case == "lazy" else snapshot(model)
    with pytest.raises(ValueError, match=message):
        add_drelu_head(model, 3)
    if before is not None:
        modules, state = snapshot(model)
        assert modules == before[0]
        assert all(torch.equal(state[key], value) for key, value in before[1].items())


@pytest.mark.parametrize("add", [add_drelu_head, add_drelu_stem])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": 0}, ValueError, "features must be from 1 to 1048576, got 0"),
        ({"features": 2.0}, TypeError, "features must be an int, got float"),
        ({"features": True}, TypeError, "features must be an int, got bool"),
        ({"init": 0.0}, ValueError, r"init must be from 1\.1\S+ to 3\.4\S+, got"),
        ({"init": float("nan")}, ValueError, r"init must be from 1\.1\S+ to 3\.4\S+, got"),
        ({"activation": nn.ReLU()}, TypeError, "activation must make a new module"),
        ({"activation": "relu"}, TypeError, "activation must make a new module"),
        ({"activation": lambda: torch.relu}, TypeError, "activation must make an nn.Module"),
        ({"activation": lambda: DReLU()}, ValueError, "of known size"),
        ({"example_input": 3}, TypeError, "example_input must be a tensor"),
        ({"example_input": torch.zeros(2, 4, 8, 8)}, ValueError, r"cannot take example_input of shape \(2, 4, 8, 8\)"),
        ({"model": "resnet18"}, TypeError, "model must be an nn.Module, got str"),
    ],
)
def test_refused_arguments(add: Callable, change: dict, error: type[Exception], message: str):
    model = small_cnn()
    before = snapshot(model)[0]
    with pytest.raises(error, match=message):
        add(**({"model": model, "features": 4} | change))
    assert snapshot(model)[0] == before


def test_looking_leaves_a_model_alone():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.cache: dict[str, torch.Tensor] = {}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache[str(x.device)] = x
            assert not self.training
            return self.norm(x)

    model = Counts()
    before = snapshot(model)
    shape = look_at(model, torch.rand(3, 4), lambda view, inputs: view(*inputs).shape)
    assert shape == (3, 4)
    assert model.cache == {}
    assert snapshot(model)[0] == before[0]
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("name", "place"), [("resnet18", "conv1"), ("squeezenet1_1", "features.0"), ("swin_t", "features.0.0")]
)
def test_stem_comes_first(name: str, place: str):
    torch.manual_seed(0)
    model = torchvision_model(name, 6)
    old = model.get_submodule(place)
    kept = set(model.state_dict())
    assert add_drelu_stem(model, 5) is model
    stem = model.get_submodule(place)
    assert list(stem._modules) == ["extra", "activation", "conv"]
    assert kept - set(model.state_dict()) == {f"{place}.weight"} | (
        {f"{place}.bias"} if old.bias is not None else set()
    )
    assert (stem.conv.in_channels, stem.conv.stride, stem.conv.padding) == (5, old.stride, old.padding)
    assert stem.activation.max_value.shape == (5,)
    images = torch.rand(2, 3, 32, 32)
    assert stem(images).shape == old(images).shape
    model.eval()(images).square().sum().backward()
    assert all(part.grad.abs().sum() > 0 for part in (stem.extra.weight, stem.conv.weight))
    with pytest.raises(ValueError, match=f"already has a D-ReLU stem, at '{place}'"):
        add_drelu_stem(model, 5)


def test_stem_keeps_the_kind_of_the_convolution_and_leaves_the_old_one():
    class Same(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))

    layer = Same(3, 4, 2, stride=2)
    weight = layer.weight.detach().clone()
    model = add_drelu_stem(
        nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 5)), 6, example_input=torch.zeros(2, 3, 8, 8)
    )
    assert type(model[0].conv) is Same
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert torch.equal(layer.weight, weight)
    assert layer.in_channels == 3


def test_stem_of_the_convolution_that_runs_first():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Conv2d(4, 5, 1), nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)).mean((2, 3))

    model = add_drelu_stem(Backwards(), 2, activation=nn.ReLU)
    assert isinstance(model.first.activation, nn.ReLU)
    assert isinstance(model.second, nn.Conv2d)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 5)), "model must have a convolution"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "must be a Conv2d without groups"),
        (nn.Sequential(nn.Conv1d(4, 4, 3)), "must be a Conv2d without groups"),
    ],
)
def test_no_place_for_a_stem(model: nn.Module, message: str):
    before = snapshot(model)[0]
    with pytest.raises(ValueError, match=message):
        add_drelu_stem(model, 2)
    assert snapshot(model)[0] == before


def test_head_and_stem_together():
    model = add_drelu_head(add_drelu_stem(small_cnn(), 4), 6)
    assert [name for name, module in model.named_modules() if isinstance(module, DReLU)] == [
        "0.activation",
        "5.activation",
    ]
