"""S-ReLU and D-ReLU as layers: values, the paper's theorem, lazy sizes, saving, dtypes, in place, refusals."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parameter import UninitializedParameter

from mixaug.nn import DReLU, SReLU

EDGES = torch.tensor([-math.inf, -3.0, -1e-45, -0.0, 0.0, 1e-45, 0.5, 2.0, 5.9999995, 6.0, 6.0000005, 3e38, math.inf])


# --- values and the theorem ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "plain"), [(SReLU(6), nn.ReLU6()), (SReLU(math.inf), nn.ReLU())])
def test_s_relu_is_relu6_and_relu(layer: SReLU, plain: nn.Module) -> None:
    ours, theirs = EDGES.clone().requires_grad_(), EDGES.clone().requires_grad_()
    assert torch.equal(layer(ours), plain(theirs))
    layer(ours).sum().backward()
    plain(theirs).sum().backward()
    finite = torch.isfinite(EDGES) | (EDGES < 0)  # at infinity the cap is reached: no gradient, where ReLU has one
    assert ours.grad is not None and torch.equal(ours.grad[finite], theirs.grad[finite])
    assert ours.grad[-1] == 0


@pytest.mark.parametrize(
    ("shape", "caps", "dim", "seen"),
    [
        ((2, 3), 3, 1, (3,)),
        ((2, 3, 4, 5), 3, 1, (3, 1, 1)),
        ((2, 3, 4, 5), 1, 1, (1,)),
        ((2, 3, 4, 5), (3, 4, 5), 1, (3, 4, 5)),
        ((2, 3, 4, 5), [4, 5], -2, (4, 5)),
        ((2, 3, 4, 5), np.int64(5), -1, (5,)),
        ((3, 4), 3, 0, (3, 1)),
    ],
)
def test_d_relu_by_channel_layer_and_neuron(shape, caps, dim, seen) -> None:
    torch.manual_seed(0)
    layer, x = DReLU(caps, dim=dim), torch.randn(shape, requires_grad=True)
    nn.init.uniform_(layer.max_value, 0.1, 0.6)
    m = layer.max_value.detach().clone().requires_grad_()
    expected = x.relu().where(x < m.reshape(seen), m.reshape(seen))
    weights = torch.randn(shape)
    assert torch.equal(layer(x), expected)
    of_x, of_m = torch.autograd.grad((layer(x) * weights).sum(), (x, layer.max_value))
    for ours, plain in zip((of_x, of_m), torch.autograd.grad((expected * weights).sum(), (x, m)), strict=True):
        torch.testing.assert_close(ours, plain)


def test_a_cap_below_zero_counts_as_zero_and_is_not_written_to() -> None:
    layer, x = DReLU(2), torch.tensor([[1.0, 1.0], [-1.0, 1.0]], requires_grad=True)
    layer.max_value.data = torch.tensor([-0.5, 0.5])
    out = layer(x)
    out.sum().backward()
    assert out.tolist() == [[0.0, 0.5], [0.0, 0.5]]
    assert x.grad is not None and x.grad.abs().max() == 0
    assert layer.max_value.grad is not None and layer.max_value.grad.tolist() == [0.0, 2.0]
    assert layer.max_value.tolist() == [-0.5, 0.5]


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
CAPS = st.floats(width=32, min_value=float(np.finfo(np.float32).tiny), allow_infinity=True)


@settings(deadline=None, max_examples=300)
@given(FLOATS, FLOATS, CAPS, CAPS)
@example(2.0, 3.0, 3.0, 3.0)  # both within the cap: as far apart as ReLU's
@example(4.0, 9.0, 3.0, 2.0)  # both beyond: equal outputs
@example(-1.0, 1e-45, 1.0, math.inf)
@example(3.4028234663852886e38, -3.4028234663852886e38, 3.4028234663852886e38, 1.0)
def test_theorem_and_corollary(one: float, two: float, cap: float, other: float) -> None:
    # Theorem 1: never further apart than ReLU's. Corollary 1: no further apart when m falls.
    pair = torch.tensor([one, two])
    low, high = sorted((cap, other))

    def distance(y: torch.Tensor) -> float:
        return abs(y[0].double() - y[1].double()).item()

    assert distance(SReLU(low)(pair)) <= distance(SReLU(high)(pair)) <= distance(F.relu(pair))
    assert torch.equal(DReLU(1, init=low)(pair), SReLU(low)(pair))
    if max(one, two) <= low:
        assert distance(SReLU(low)(pair)) == distance(F.relu(pair))
    if min(one, two) >= high:
        assert distance(SReLU(high)(pair)) == 0


# --- lazy sizes and state_dict ------------------------------------------------------------------------------------


def test_the_first_call_gives_the_number_of_caps() -> None:
    layer, last = DReLU(init=7.0), DReLU(dim=-1)
    assert not layer.initialised and repr(layer) == "DReLU(None, init=7, dim=1)"
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)  # holds the parameter that the call fills
    layer(torch.full((2, 3, 5, 4), 9.0)).sum().backward()
    last(torch.zeros(2, 3, 5, 4))
    assert layer.initialised and layer.max_value.tolist() == [7.0] * 3 and last.max_value.shape == (4,)
    optimizer.step()
    assert layer.max_value.tolist() == [7.0 - 2 * 5 * 4] * 3
    layer.reset_parameters()
    assert layer.max_value.tolist() == [7.0] * 3
    with pytest.raises(ValueError, match=re.escape("(4,) of dimension 1 on, of x of shape (2, 4), got (3,)")):
        layer(torch.zeros(2, 4))


def test_a_first_call_in_inference_mode_leaves_a_layer_that_trains() -> None:
    layer = DReLU(init=1.0)
    with torch.inference_mode():
        layer(torch.zeros(2, 3))
    layer(torch.full((2, 3), 5.0)).sum().backward()
    assert layer.max_value.grad is not None and layer.max_value.grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("weights_only", [False, True])
def test_state_dict_between_sized_and_lazy_layers(assign: bool, weights_only: bool) -> None:
    def saved(layer: DReLU) -> dict[str, torch.Tensor]:
        file = io.BytesIO()
        torch.save(nn.Sequential(nn.ReLU(), layer).state_dict(), file)
        file.seek(0)
        return torch.load(file, weights_only=weights_only)

    for target in (DReLU(), DReLU((3, 2), init=9.0)):
        model = nn.Sequential(nn.ReLU(), target)
        model.load_state_dict(saved(DReLU((3, 2), init=4.0)), assign=assign)
        assert torch.equal(target.max_value, torch.full((3, 2), 4.0)) and target.max_value.requires_grad
    lazy = nn.Sequential(nn.ReLU(), DReLU())
    lazy.load_state_dict(saved(DReLU()), assign=assign)
    assert isinstance(lazy[1].max_value, UninitializedParameter)
    assert lazy(torch.zeros(2, 6)).shape == (2, 6) and lazy[1].max_value.shape == (6,)
    message = re.escape("1.max_value was saved before its first call and has no size, the model's has (6,)")
    with pytest.raises(RuntimeError, match=message):
        lazy.load_state_dict(saved(DReLU()), assign=assign)


def test_strict_state_dicts_name_what_does_not_fit() -> None:
    lazy, sized = DReLU(), DReLU(3)
    for layer in (lazy, sized):
        with pytest.raises(RuntimeError, match=r'Missing key.*"max_value"'):
            layer.load_state_dict({})
        with pytest.raises(RuntimeError, match=r'Unexpected key.*"more"'):
            layer.load_state_dict({**layer.state_dict(), "more": torch.zeros(1)})
        assert layer.load_state_dict({}, strict=False).missing_keys == ["max_value"]
    assert not lazy.initialised
    with pytest.raises(RuntimeError, match=r"size mismatch for max_value.*\[5\].*\[3\]"):
        sized.load_state_dict(DReLU(5).state_dict())
    assert DReLU().state_dict(keep_vars=True)["max_value"].__class__ is UninitializedParameter
    assert sized.state_dict(keep_vars=True)["max_value"] is sized.max_value
    assert SReLU(2.0).state_dict() == {}


def test_copies_and_pickles() -> None:
    for layer in (DReLU(), DReLU(3, init=2.0, dim=-1, inplace=True), SReLU(2.0, inplace=True)):
        layer.site = "layer1.relu"
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert repr(twin) == repr(layer) and twin.site == "layer1.relu"
            x = torch.tensor([[-1.0, 1.0, 3.0]])
            assert torch.equal(twin(x.clone()), copy.deepcopy(layer)(x.clone()))
            assert twin.max_value is not layer.max_value
    assert repr(SReLU(2.5, inplace=True)) == "SReLU(max_value=2.5, inplace=True)"
    assert repr(DReLU((3, 4), init=2.0, inplace=True)) == "DReLU(3x4, init=2, dim=1, inplace=True)"


# --- dtypes and devices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_output_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    x = torch.tensor([[-1.0, 0.3, 3.0]], dtype=dtype, requires_grad=True)
    cap = torch.tensor(0.7).to(dtype)
    for layer in (DReLU(3, init=0.7), DReLU(1, init=0.7), DReLU(init=0.7), SReLU(0.7)):
        assert layer(x).dtype == dtype and layer(x)[0, 2] == cap and layer(x)[0, 1] == x[0, 1]
        assert layer.max_value.dtype == torch.float32
        moved = copy.deepcopy(layer).to(dtype)
        assert moved.max_value.dtype == dtype and torch.equal(moved(x), layer(x))
    lazy = DReLU().to(dtype)
    lazy(x)
    assert lazy.max_value.dtype == dtype
    wide = DReLU(1, init=0.7)
    wide(x.expand(500, 3)).sum().backward()
    assert wide.max_value.grad is not None and wide.max_value.grad.dtype == torch.float32
    assert wide.max_value.grad.item() == 500


def test_layers_made_without_memory_get_their_values_back() -> None:
    with torch.device("meta"):
        model = nn.Sequential(DReLU(3, init=2.0), SReLU(1.5))
    assert repr(model[1]) == "SReLU(max_value=1.5)" and model(torch.zeros(2, 3, device="meta")).is_meta
    model.to_empty(device="cpu")
    for layer in model:
        layer.max_value.data.fill_(-7.0)
        layer.reset_parameters()
    assert model[0].max_value.tolist() == [2.0] * 3 and model[1].max_value.item() == 1.5


@pytest.mark.parametrize("layer", [nn.ReLU(inplace=True), SReLU(0.5, inplace=True), DReLU(3, init=0.5, inplace=True)])
def test_in_place_as_relu_does_it(layer: nn.Module) -> None:
    values = torch.tensor([[-1.0, 0.2, 3.0], [2.0, -2.0, 0.3]])
    plain = copy.deepcopy(layer)
    plain.inplace = False
    leaf = values.clone().requires_grad_()
    whole = leaf * 1
    part = whole[1:]
    assert layer(part) is part and part.data_ptr() == whole[1:].data_ptr()
    assert torch.equal(whole, torch.cat([values[:1], plain(values[1:])]))
    whole.sum().backward()
    passes = (values > 0) & ((plain(values) == values) | (torch.arange(2)[:, None] == 0))
    passes[0] = True
    assert leaf.grad is not None and torch.equal(leaf.grad, passes.float())
    with torch.no_grad():
        assert layer(leaf) is leaf and torch.equal(leaf, plain(values))
    leaf = values.clone().requires_grad_()
    for refused in (leaf, leaf[1:]):
        with pytest.raises(RuntimeError, match=r"leaf .*requires"):
            layer(refused)
    assert torch.equal(leaf, values)  # refused before anything is written
    power = (leaf * 1).exp()
    layer(power)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        power.sum().backward()


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1.0, math.nan, -math.inf, 1e-60, 10**400])
def test_a_cap_that_is_not_above_zero_is_refused(value: float) -> None:
    got = "a number of 1329 bits" if value == 10**400 else value
    rule = f"must be from 1.17549e-38 to 3.40282e+38, got {got}"
    with pytest.raises(ValueError, match=re.escape(f"max_value {rule}")):
        SReLU(value)
    with pytest.raises(ValueError, match=re.escape(f"init {rule}")):
        DReLU(3, init=value)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: SReLU("6"), TypeError, "max_value must be a number, got str"),
        (lambda: SReLU(True), TypeError, "max_value must be a number, got bool"),
        (
            lambda: SReLU(torch.ones(2)),
            TypeError,
            "max_value must be a number, got a torch.float32",
        ),
        (lambda: DReLU(3, init=None), TypeError, "init must be a number, got None"),
        (lambda: DReLU(0), ValueError, "num_features must be at least 1, got 0"),
        (lambda: DReLU(-2), ValueError, "num_features must be at least 1, got -2"),
        (lambda: DReLU(()), ValueError, "num_features must be at least 1, got ()"),
        (lambda: DReLU((-2, 3)), ValueError, "num_features must be at least 1, got (-2, 3)"),
        (lambda: DReLU(True), TypeError, "num_features must be an int, a shape or None, got True"),
        (lambda: DReLU((2, True)), TypeError, "num_features must be an int, a shape or None, got (2, True)"),
        (lambda: DReLU(2.0), TypeError, "num_features must be an int, a shape or None, got 2.0"),
        (lambda: DReLU("2"), TypeError, "num_features must be an int, a shape or None, got '2'"),
        (lambda: DReLU(3, dim=1.0), TypeError, "dim must be an int, got float"),
        (lambda: DReLU(3, dim=True), TypeError, "dim must be an int, got bool"),
        (lambda: DReLU(3, inplace=1), TypeError, "inplace must be True or False, got int: 1"),
        (lambda: SReLU(3, inplace=None), TypeError, "inplace must be True or False, got None"),
        (lambda: SReLU(3)(torch.zeros(2).int()), TypeError, "x must be a floating point tensor, got torch.int32"),
        (lambda: SReLU(3)([1.0]), TypeError, "x must be a floating point tensor, got list"),
        (lambda: DReLU(dim=2)(torch.zeros(2, 3)), IndexError, "dim must lie in [-2, 2) for x of shape (2, 3), got 2"),
        (lambda: DReLU()(torch.zeros(2, 0)), ValueError, "x must have at least 1 feature, got the shape (2, 0)"),
    ],
)
def test_wrong_arguments_are_named(make, kind, message) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        make()


@pytest.mark.parametrize("layer", [DReLU(3), DReLU(dim=-3)])
def test_a_call_that_does_not_fit_names_the_layer(layer: DReLU) -> None:
    layer.site = "layer1.0.relu"
    with pytest.raises(
        TypeError, match=re.escape("x of layer1.0.relu must be a floating point tensor, got torch.int64")
    ):
        layer(torch.zeros(2, 3).long())
    with pytest.raises(IndexError, match=re.escape("dim of layer1.0.relu must lie in [-1, 1) for x of shape (3,)")):
        layer(torch.zeros(3))
    if layer.initialised:
        with pytest.raises(ValueError, match=r"max_value of layer1\.0\.relu must have the shape \(4,\).*got \(3,\)"):
            layer(torch.zeros(2, 4))
