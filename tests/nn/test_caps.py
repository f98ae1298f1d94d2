"""What training does with caps: the penalty, its proximal step, their group in optimisers, their start from data."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mixaug.nn import DReLU, SReLU, caps, drelu_penalty, param_groups, set_caps, shrink_caps


def model_with(*values: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A dense layer and caps of these values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, len(values)), DReLU(len(values)))
    model[1].max_value.data = torch.tensor(values, dtype=dtype)
    return model


class SmallCNN(nn.Module):
    """Caps by channel, neuron and layer, all in place, before a residual sum in place; and one that no one calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.channel, self.neuron = DReLU(4, inplace=True), DReLU((4, 6, 6), inplace=True)
        self.layer, self.last = DReLU(1, inplace=True), DReLU(5, dim=-1)
        self.unused = DReLU(7)
        self.dense = nn.Linear(144, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.channel(self.norm(self.conv(x)))
        y += 0.3
        y = self.neuron(self.drop(y) - 0.7)
        y += 1.0
        y = self.layer(x=self.dense(y.flatten(1)))
        y -= 0.2
        return self.last(y.reshape(-1, 2, 5))


def pictures(n: int = 7) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


# --- the penalty --------------------------------------------------------------------------------------------------


def test_penalty_and_its_gradient() -> None:
    model = nn.Sequential(model_with(1.0, -2.0, 3.0), DReLU(1, init=10.0), SReLU(50.0), nn.ReLU())
    penalty = drelu_penalty(model)
    penalty.backward()
    assert penalty.shape == () and penalty.item() == 1 + 4 + 9 + 100
    assert model[0][1].max_value.grad.tolist() == [2.0, -4.0, 6.0] and model[1].max_value.grad.tolist() == [20.0]
    assert model[0][0].weight.grad is None


def test_shared_layers_and_shared_caps_count_once() -> None:
    layer, tied = DReLU(2, init=3.0), DReLU(2)
    tied.max_value = layer.max_value
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Sequential(layer), tied)
    assert drelu_penalty(model).item() == 18.0
    assert [name for name, _ in caps(model)] == ["0", "4"]
    shrink_caps(model, 1.0, 0.25)
    assert layer.max_value.tolist() == [2.0, 2.0]
    assert [len(group["params"]) for group in param_groups(model)] == [1]


def test_penalty_of_mixed_dtypes_is_wide_enough() -> None:
    model = nn.Sequential(model_with(300.0, 300.0, dtype=torch.float16), model_with(1.0, dtype=torch.bfloat16))
    assert drelu_penalty(model).dtype == torch.float32 and drelu_penalty(model).item() == 180001.0
    model.append(model_with(1e-9, dtype=torch.float64))
    assert drelu_penalty(model).dtype == torch.float64
    drelu_penalty(model).backward()
    assert model[0][1].max_value.grad.tolist() == [600.0, 600.0]
    assert drelu_penalty(model_with(1e-9, 1.0, dtype=torch.float64)).item() == 1.0 + 1e-18


@pytest.mark.parametrize(
    "call",
    [drelu_penalty, lambda net: shrink_caps(net, 1.0, 1.0), lambda net: set_caps(net, torch.zeros(1, 3), 0.5)],
)
def test_a_model_without_caps_is_refused(call) -> None:
    with pytest.raises(ValueError, match=r"must have D-ReLU layers, got none: use replace_relu or add_drelu_head"):
        call(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), SReLU(1.0)))
    with pytest.raises(ValueError, match=r"must have been called once: the D-ReLU layer 1\.0 has no size yet"):
        call(nn.Sequential(DReLU(3), nn.Sequential(DReLU())))
    with pytest.raises(ValueError, match=r"the D-ReLU layer itself has no size yet"):
        call(DReLU())
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got function"):
        call(lambda x: x)


# --- the proximal step --------------------------------------------------------------------------------------------


NUMBERS = st.floats(0, 1e6)


@settings(deadline=None, max_examples=60)
@given(st.floats(-200, 200), NUMBERS, st.floats(0, 10))
def test_shrink_minimises_the_proximal_objective(m: float, lam: float, lr: float) -> None:
    model = model_with(m, dtype=torch.float64)
    shrink_caps(model, lam, lr)
    found = model[1].max_value.item()
    assert found == pytest.approx(m / (1 + 2 * lr * lam), rel=1e-12, abs=0)
    assert found * m >= 0 and abs(found) <= abs(m)

    def objective(u: float) -> float:  # times lr, so that lr=0 has a minimum too
        return lr * lam * u * u + (u - m) ** 2 / 2

    low, high = -abs(m) - 1, abs(m) + 1
    for _ in range(200):  # it is convex: thirds
        one, two = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, two) if objective(one) < objective(two) else (one, high)
    assert found == pytest.approx((low + high) / 2, abs=1e-5)
    assert objective(found) <= objective((low + high) / 2) * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("lam", [1e-7, 1e4, 1e12, 1e300])
def test_shrink_is_stable_in_every_dtype(dtype: torch.dtype, lam: float) -> None:
    model = model_with(100.0, -100.0, 0.0, 1.0, dtype=dtype)
    for _ in range(5):
        before = model[1].max_value.detach().clone()
        shrink_caps(model, lam, 1e10)
        after = model[1].max_value
        assert after.dtype == dtype and after.isfinite().all() and (after.abs() <= before.abs()).all()
        assert (after * before >= 0).all()


def train(model, optimizer, lam: float, steps: int, penalty: bool = False) -> list[float]:
    """Fits caps that every input exceeds, so that the loss is the convex (m - 1)^2, to the target 1."""
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model[1](torch.full((1, 1), 1e30)) - 1).square().sum()
        (loss + lam * drelu_penalty(model) if penalty else loss).backward()
        optimizer.step()
        if not penalty:
            shrink_caps(model, lam, optimizer.param_groups[-1]["lr"])
        values.append(model[1].max_value.item())
    return values


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("lam", [0.0, 1e-7, 1.0, 1e4, 1e12])
def test_shrink_is_stable_with_every_optimiser(name: str, lam: float) -> None:
    model = model_with(100.0)
    values = train(model, OPTIMIZERS[name](param_groups(model)), lam, 60)
    assert all(abs(value) <= 100 for value in values) and abs(values[-1]) < 100
    if lam >= 1e4:
        assert all(abs(value) < 1 for value in values)


@pytest.mark.parametrize(("name", "weight"), [("sgd", 1.0), ("momentum", 0.1)])
@pytest.mark.parametrize("lam", [0.01, 0.5, 3.0])
def test_shrink_ends_at_the_stationary_point_of_the_penalised_loss(name: str, weight: float, lam: float) -> None:
    # (m - 1)^2 + lam m^2 has its minimum at 1 / (1 + lam). Momentum 0.9 makes gradients 10 times as large.
    model = model_with(3.0)
    values = train(model, OPTIMIZERS[name](param_groups(model)), lam, 900)
    assert values[-1] == pytest.approx(1 / (1 + lam * weight), rel=1e-4)


def test_the_penalty_in_the_loss_diverges_where_shrink_does_not() -> None:
    inside, outside = model_with(1.0), model_with(1.0)
    diverged = train(inside, torch.optim.SGD(param_groups(inside), lr=0.1), 1e4, 20, penalty=True)
    shrunk = train(outside, torch.optim.SGD(param_groups(outside), lr=0.1), 1e4, 20)
    assert not math.isfinite(diverged[-1]) or abs(diverged[-1]) > 1e30
    assert shrunk[-1] == pytest.approx(1 / (1 + 1e4), rel=1e-3)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
def test_numbers_out_of_range_are_named(value: float) -> None:
    model = model_with(1.0)
    for name, call in {
        "lam": lambda: shrink_caps(model, value, 1.0),
        "lr": lambda: shrink_caps(model, 1.0, value),
        "weight_decay": lambda: param_groups(model, value),
        "m_lr": lambda: param_groups(model, m_lr=value),
        "quantile": lambda: set_caps(model, torch.zeros(1, 3), value),
    }.items():
        rule = "from 0 to 1" if name == "quantile" else "finite and at least 0"
        with pytest.raises(ValueError, match=re.escape(f"{name} must be {rule}, got {value}")):
            call()
    with pytest.raises(ValueError, match=r"quantile must be from 0 to 1, got 1\.5"):
        set_caps(model, torch.zeros(1, 3), 1.5)
    assert model[1].max_value.item() == 1.0


@pytest.mark.parametrize("value", ["1", None, True, [1.0]])
def test_numbers_of_another_kind_are_named(value) -> None:
    kind = "None" if value is None else type(value).__name__
    with pytest.raises(TypeError, match=f"lam must be a number, got {kind}"):
        shrink_caps(model_with(1.0), value, 1.0)
    with pytest.raises(TypeError, match=f"weight_decay must be a number, got {kind}"):
        param_groups(model_with(1.0), value)
    with pytest.raises(TypeError, match=f"quantile must be a number, got {kind}"):
        set_caps(model_with(1.0), torch.zeros(1, 3), value)


# --- groups of parameters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_weight_decay_does_not_act_on_caps(kind) -> None:
    model = model_with(100.0, 50.0)
    optimizer = kind(param_groups(model, weight_decay=0.5), lr=0.1)
    start, caps_before = model[0].weight.detach().clone(), model[1].max_value.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        (0 * model(torch.ones(2, 3)).sum() + 0 * model[1].max_value.sum()).backward()
        optimizer.step()
    assert torch.equal(model[1].max_value, caps_before)
    assert (model[0].weight != start).all()


def test_caps_have_a_rate_of_their_own_that_schedules_see() -> None:
    model = model_with(100.0)
    groups = param_groups(model, weight_decay=1e-4, m_lr=np.float32(8.0))
    assert [group["params"] for group in groups] == [[model[0].weight, model[0].bias], [model[1].max_value]]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for rate in (8.0, 4.0):
        before = model[1].max_value.item()
        optimizer.zero_grad()
        model[1](torch.full((1, 1), 1e9)).sum().backward()
        optimizer.step()
        assert model[1].max_value.item() == before - rate
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 2.0]


def test_groups_without_caps_or_without_anything_else() -> None:
    plain = nn.Linear(2, 3)
    assert param_groups(plain, 0.1, m_lr=1.0) == [{"params": [plain.weight, plain.bias], "weight_decay": 0.1}]
    alone = DReLU(3)
    assert param_groups(alone, 0.1) == [{"params": [alone.max_value], "weight_decay": 0.0}]
    with pytest.raises(ValueError, match="the D-ReLU layer 0 has no size yet"):
        param_groups(nn.Sequential(DReLU()))
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got list"):
        param_groups([])  # type: ignore[arg-type]


# --- the start from data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 1.0])
def test_caps_are_quantiles_of_the_positive_pre_activations(quantile: float) -> None:
    torch.manual_seed(0)
    model = SmallCNN()
    model.norm.running_mean.uniform_(-0.5, 0.5)
    for _, layer in caps(model):
        layer.max_value.data.fill_(0.125)  # must not cap what comes later
    plain = copy.deepcopy(model).eval()
    for _, layer in caps(plain):
        layer.max_value.data.fill_(math.inf)
        layer.inplace = False
    inputs: dict[str, np.ndarray] = {}
    for name, layer in caps(plain):
        layer.register_forward_hook(
            lambda _, args, kwargs, out, name=name: inputs.update({name: (*args, *kwargs.values())[0].numpy().copy()}),
            with_kwargs=True,
        )
    with torch.no_grad():
        plain(pictures())
    set_caps(model, pictures(), quantile)

    def expected(values: np.ndarray, default: float = 0.125) -> float:
        positive = values[values > 0].astype(np.float64)
        return np.quantile(positive, quantile) if len(positive) else default

    for name, axes in {"channel": (1,), "neuron": (1, 2, 3), "layer": (), "last": (2,)}.items():
        x = inputs[name]
        columns = np.moveaxis(x, axes, range(len(axes))).reshape(*[x.shape[axis] for axis in axes], -1)
        wanted = np.apply_along_axis(expected, -1, columns)
        found = getattr(model, name).max_value.detach().numpy()
        np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=1e-6)
    assert (model.neuron.max_value == 0.125).any() and (model.neuron.max_value != 0.125).any()
    assert model.unused.max_value.tolist() == [0.125] * 7


def test_a_layer_called_twice_takes_both_calls() -> None:
    layer = DReLU(1, dim=0)
    same = nn.Linear(1, 1, bias=False)
    nn.init.ones_(same.weight)
    set_caps(nn.Sequential(layer, same.requires_grad_(False), layer), torch.ones(1, 1), 0.5)
    assert layer.max_value.item() == 1.0
    double = nn.Linear(1, 1, bias=False)
    nn.init.constant_(double.weight, 3.0)
    set_caps(nn.Sequential(layer, double, layer), torch.tensor([[1.0], [2.0]]), 0.5)
    assert layer.max_value.item() == 2.5  # the median of 1, 2, 3 and 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_infinite_and_missing_values_do_not_count(dtype: torch.dtype) -> None:
    model = nn.Sequential(DReLU(4, init=9.0)).to(dtype)
    x = torch.tensor([[1.0, -1.0, math.nan, math.inf], [2.0, 0.0, math.nan, 4.0], [4.0, -9.0, 3.0, -math.inf]])
    x = torch.cat([x, torch.zeros(1, 4)])
    set_caps(model, x.to(dtype), 0.5)
    assert model[0].max_value.tolist() == [2.0, 9.0, 3.0, 4.0] and model[0].max_value.dtype == dtype
    set_caps(model, x[:0].to(dtype), 0.5)
    assert model[0].max_value.tolist() == [2.0, 9.0, 3.0, 4.0]


def test_more_values_than_torch_has_quantiles_for() -> None:
    # torch's limit is 2**24 values; then columns in more than one block.
    x = torch.arange(1.0, 17_000_002.0)
    model = nn.Sequential(DReLU(1, dim=0))
    set_caps(model, x, 0.25)
    assert model[0].max_value.item() == 4_250_001.0
    columns = nn.Sequential(DReLU(5000))
    x = torch.arange(1000.0, 0.0, -1.0)[:, None] + torch.arange(0.0, 5000.0)
    set_caps(columns, x, 1.0)
    assert torch.equal(columns[0].max_value, x[0])


class Failing(nn.Module):
    """Raises after the first layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken in the middle")


def test_after_an_error_the_model_is_as_it_was() -> None:
    model = nn.Sequential(DReLU(3), nn.Dropout().eval(), nn.Sequential(Failing(), DReLU((3,), init=2.0)))
    model[0].max_value.data = torch.tensor([5.0, -1.0, 7.0])
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="broken in the middle"):
        set_caps(model, torch.ones(2, 3), 0.5)
    assert model[0].max_value.tolist() == [5.0, -1.0, 7.0] and model[2][1].max_value.tolist() == [2.0] * 3
    assert [module.training for module in model.modules()] == modes == [True, True, False, True, True, True]
    assert not any(module._forward_pre_hooks for module in model.modules())
    set_caps(nn.Sequential(model[0]), torch.ones(2, 3), 0.5)
    assert model[0].max_value.tolist() == [1.0] * 3 and model[0].max_value.requires_grad and model[0].training
    assert not model[0]._forward_pre_hooks
