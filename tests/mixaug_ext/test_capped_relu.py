"""ReLU with a learnt cap: each form against plain loops, its memory and its layouts."""

from __future__ import annotations

import math

import pytest
import reference_drelu as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_drelu import both_ways, caps_of, close_sums, formats, same_bits, same_values, values_of
from torch import nn

import mixaug_ext
from mixaug.nn import DReLU, SReLU
from mixaug.ops.capped_relu import capped_relu, capped_relu_torch
from mixaug_ext import _capped_relu

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
NAN, INF = math.nan, math.inf
#: Sizes that meet each walk through memory: the shape of x, of m, dim.
SIZES = [
    ((7, 5), (5,), 1), ((3, 4, 7, 7), (4,), 1), ((2, 3, 24, 25), (3,), 1), ((2, 3, 4, 5), (3, 4, 5), 1),
    ((3, 50), (), 0), ((1, 6), (6,), 1), ((2, 9000), (1,), 1), ((9,), (9,), 0), ((), (), 0),
    ((2, 1, 3, 2, 2, 3), (3, 2), 2), ((2, 3, 4), (4,), -1), ((65, 33), (33,), 1), ((300, 3), (3,), 1),
    ((1, 1), (1,), 0), ((2, 2, 600), (2,), 1),
]  # fmt: skip


@pytest.fixture(params=["compiled", "torch"])
def form(request, monkeypatch):
    """With and without the compiled library."""
    if request.param == "torch":
        monkeypatch.setattr(_capped_relu, "_usable", lambda *_: None)
    elif mixaug_ext.library() is None:
        pytest.skip("no compiled library")
    return request.param


# ------------------------------------------------------------------ values and gradients


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "caps", "dim"), SIZES, ids=str)
def test_equals_the_reference(form, shape, caps, dim, dtype):
    for seed, cap_dtype in enumerate([torch.float32, dtype]):
        x, m, grad = values_of(shape, dtype, seed), caps_of(caps, seed, cap_dtype), values_of(shape, dtype, seed + 9)
        expected, wanted_x, sums = reference.capped_relu(x, m, dim % max(1, len(shape)), grad)
        for function in (capped_relu, capped_relu_torch):
            out, of_x, of_m = both_ways(function, x, m, dim, grad)
            assert same_bits(out, expected) and same_bits(of_x, wanted_x)
            assert of_m.shape == m.shape and of_m.dtype == m.dtype and close_sums(of_m, sums, grad, cap_dtype)
        with torch.no_grad():
            assert same_bits(capped_relu(x, m, dim), expected)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4), st.data(), st.integers(0, 9999), st.sampled_from(DTYPES),
    st.sampled_from([0, 1, 2]),
)  # fmt: skip
def test_any_shape_and_run_of_dimensions(shape, data, seed, dtype, vectors):
    dim = data.draw(st.integers(0, len(shape) - 1))
    last = data.draw(st.integers(dim + 1, len(shape)))
    x, m = values_of(shape, dtype, seed), caps_of(shape[dim:last], seed)
    if seed % 3 == 0 and x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    grad = values_of(shape, dtype, seed + 1)
    expected, wanted_x, sums = reference.capped_relu(x, m, dim, grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_capped_relu, "_VECTORS", vectors)
        out, of_x, of_m = both_ways(capped_relu, x, m, dim, grad)
    assert same_bits(out, expected) and same_bits(of_x, wanted_x) and close_sums(of_m, sums, grad, m.dtype)
    assert x.numel() == 0 or formats(out) == formats(x.relu())


SPECIAL = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e-30, -1e-30, 6.1e-5, 3e-8, 65504.0, 65519.0, 65520.0, 1e38, 0.3]


@pytest.mark.parametrize("vectors", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values_of_both(form, dtype, vectors, monkeypatch):
    """Each special x under each special cap; in half precision some of these caps round to 0, some to infinity."""
    monkeypatch.setattr(_capped_relu, "_VECTORS", vectors)
    caps = torch.tensor([cap for cap in SPECIAL if math.copysign(1, cap) > 0 or cap != 0])
    ties = caps.to(dtype)
    x = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    x = torch.cat([x, ties])[:, None].repeat(3, len(caps))
    grad = torch.arange(1, x.numel() + 1).reshape(x.shape).remainder(7).to(dtype)
    expected, wanted_x, sums = reference.capped_relu(x, caps, 1, grad)
    out, of_x, of_m = both_ways(capped_relu, x, caps, 1, grad)
    same = same_bits if form == "compiled" else same_values  # without it -0.0 under a cap of 0 keeps its sign
    assert same(out, expected) and same_bits(of_x, wanted_x) and close_sums(of_m, sums, grad, torch.float32)
    for i, cap in enumerate(caps):  # one cap for the layer: the other walk
        out, of_x, of_m = both_ways(capped_relu, x[:, i].contiguous(), cap, 0, grad[:, i])
        assert same(out, expected[:, i]) and same_bits(of_x, wanted_x[:, i]) and of_m.item() == sums[i]
    plain, of_x, of_m = both_ways(capped_relu_torch, x, caps, 1, grad)
    number = ~caps.isnan()  # what passes below a NaN cap is not said
    assert same_values(plain, expected) and same_bits(of_x[:, number], wanted_x[:, number])
    assert close_sums(of_m[number], torch.tensor(sums)[number].tolist(), grad, torch.float32)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_half_value(form, dtype):
    """All 65,536 bit patterns as x, and as the half to which a cap is rounded."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    x, m = bits.view(dtype), torch.tensor(1.7)
    assert same_bits(capped_relu(x, m), capped_relu_torch(x, m))
    between = bits.view(dtype).float() * (1 + 2**-9)  # in float32 it lies between two of them
    caps = torch.cat([between[bits >= 0], between[bits < 0]])
    big = torch.full_like(caps, INF, dtype=dtype)
    assert same_values(capped_relu(big, caps, 0), capped_relu_torch(big, caps, 0))
    grad = bits.view(dtype).nan_to_num(1)
    ones = torch.ones_like(grad)
    _, _, each = both_ways(capped_relu, ones[None], torch.ones(len(bits)), 1, grad[None])
    assert torch.equal(each, grad.float())  # a sum of one: the half converted


def test_every_vector_width_and_number_of_threads_gives_the_same_bits(monkeypatch):
    if mixaug_ext.library() is None:
        pytest.skip("no compiled library")
    threads = torch.get_num_threads()
    monkeypatch.setattr(_capped_relu, "_BYTES_PER_THREAD", 1 << 12)
    for shape, caps in [((6, 5, 300, 301), (5,)), ((3001, 333), (333,)), ((700_001,), ()), ((5, 40_000), (40_000,))]:
        for dtype in DTYPES[:3]:
            x, m, grad = values_of(shape, dtype), caps_of(caps), values_of(shape, dtype, 1)
            got = []
            for vectors, count in ((2, 1), (1, 1), (0, 1), (2, 2), (2, 3)):
                monkeypatch.setattr(_capped_relu, "_VECTORS", vectors)
                torch.set_num_threads(count)
                try:
                    got.append(both_ways(capped_relu, x, m, 1 if caps else 0, grad))
                finally:
                    torch.set_num_threads(threads)
            for other in got[1:]:
                assert all(torch.equal(a, b) for a, b in zip(got[0], other, strict=True))
            plain, plain_x, plain_m = both_ways(capped_relu_torch, x, m, 1 if caps else 0, grad)
            assert torch.equal(got[0][0], plain) and torch.equal(got[0][1], plain_x)
            torch.testing.assert_close(got[0][2], plain_m, rtol=2e-5, atol=2e-2 if not caps else 2e-3)


# ------------------------------------------------------------------ memory and layout


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["channels_last", "channels_last_3d", "sliced", "transposed", "expanded"])
def test_layouts(form, layout, dtype):
    x = values_of((2, 3, 4, 5, 6) if layout == "channels_last_3d" else (2, 3, 4, 5), dtype)
    if layout.startswith("channels_last"):
        x = x.to(memory_format=getattr(torch, layout))
    elif layout == "sliced":
        x = values_of((2, 3, 6, 9), dtype)[:, :, 1:-1, 2:-2]
    elif layout == "transposed":
        x = values_of((2, 5, 4, 3), dtype).transpose(1, 3)
    else:
        x = values_of((2, 1, 4, 1), dtype).expand(2, 3, 4, 5)
    for caps, dim in [((3,), 1), ((4,), 2), ((1,), 0), (tuple(x.shape[1:]), 1)]:
        m, grad = caps_of(caps), values_of(x.shape, dtype, 5)
        expected, wanted_x, sums = reference.capped_relu(x, m, dim, grad)
        for given_grad in (
            grad,
            grad.to(memory_format=torch.contiguous_format),
            torch.ones((), dtype=dtype).expand(x.shape),
        ):
            if given_grad.stride() == (0,) * x.ndim:
                expected, wanted_x, sums = reference.capped_relu(x, m, dim, given_grad)
            out, of_x, of_m = both_ways(capped_relu, x, m, dim, given_grad)
            assert same_bits(out, expected) and same_bits(of_x, wanted_x)
            assert close_sums(of_m, sums, given_grad, torch.float32)
            assert out.stride() == x.relu().stride()


def test_strided_caps(form):
    x, grad = values_of((4, 6), torch.float32), values_of((4, 6), torch.float32, 1)
    m = caps_of((12,))
    for strided in (m[::2], m[:1].expand(6), m.reshape(2, 6).T[:, 0]):
        expected, wanted_x, sums = reference.capped_relu(x, strided, 1, grad)
        out, of_x, of_m = both_ways(capped_relu, x, strided, 1, grad)
        assert same_bits(out, expected) and same_bits(of_x, wanted_x) and close_sums(of_m, sums, grad, m.dtype)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0)])
def test_empty(form, shape):
    out, of_x, of_m = both_ways(capped_relu, torch.zeros(shape), torch.ones(3), 1, torch.zeros(shape))
    assert out.shape == of_x.shape == shape and of_m.tolist() == [0.0] * 3
    none = both_ways(capped_relu, torch.zeros(4, 0), torch.ones(0), 1, torch.zeros(4, 0))
    assert none[0].shape == none[1].shape == (4, 0) and none[2].shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place(form, dtype):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = values_of((2, 3, 4, 50), dtype).to(memory_format=layout)
        m, grad = caps_of((3,)).requires_grad_(), values_of(x.shape, dtype, 1)
        expected, wanted_x, sums = reference.capped_relu(x, m.detach(), 1, grad)
        leaf = x.clone().requires_grad_()
        source = leaf * 1
        out = capped_relu(source, m, inplace=True)
        assert out is source and same_bits(out.detach(), expected)
        of_x, of_m = torch.autograd.grad(out, (leaf, m), grad)
        assert same_bits(of_x, wanted_x) and close_sums(of_m, sums, grad, m.dtype)
        version, storage = x._version, x.data_ptr()
        with torch.no_grad():
            out = capped_relu(x, m, inplace=True)
        assert out is x and x.data_ptr() == storage and x._version > version and same_bits(x, expected)


def test_inputs_are_left_alone(form):
    x, m = values_of((4, 3), torch.float32), caps_of((3,))
    grad, before = values_of((4, 3), torch.float32, 1), (x.clone(), m.clone())
    kept = grad.clone()
    both_ways(capped_relu, x, m, 1, grad)
    assert torch.equal(x, before[0]) and torch.equal(m, before[1]) and torch.equal(grad, kept)
    assert (x._version, m._version, grad._version) == (0, 0, 0)


def saved_bytes(layer, x):
    """Bytes that autograd keeps for the backward pass, each storage counted once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x)
    assert out.data_ptr() in kept  # the output itself, which the next layer keeps too, not a copy
    return sum(kept.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_saved_bytes_are_those_of_relu_and_m(form, dtype, inplace):
    def source():
        return values_of((8, 16, 5, 5), dtype).requires_grad_() * 1

    relu = saved_bytes(nn.ReLU(inplace), source())
    assert relu == 8 * 16 * 25 * dtype.itemsize
    for layer, caps in [(DReLU(16, 1.0, inplace=inplace), 16), (DReLU(1, 1.0, inplace=inplace), 1),
                        (DReLU((16, 5, 5), 1.0, inplace=inplace), 400), (SReLU(1.0, inplace), 1)]:  # fmt: skip
        assert saved_bytes(layer, source()) == relu + 4 * caps


def test_autocast(form):
    linear, layer = nn.Linear(6, 4), DReLU(4, init=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(linear(values_of((8, 6), torch.float32)))
        (out.float() ** 2).sum().backward()
    assert out.dtype == torch.bfloat16 and layer.max_value.grad.dtype == torch.float32
    assert layer.max_value.grad.abs().sum() > 0 and linear.weight.grad.dtype == torch.float32


def test_sum_of_the_caps_gradient_does_not_overflow_half_precision(form):
    """Each term fits into float16, their sum of 131,072 does not: in every form it is a float32 sum."""
    x, m, grad = torch.full((64, 2), 3.0).half(), torch.ones(2), torch.full((64, 2), 2048.0).half()
    for function in (capped_relu, capped_relu_torch):
        assert both_ways(function, x, m, 1, grad)[2].tolist() == [131072.0] * 2


def test_float64_caps_are_summed_in_float64(form):
    x, m = torch.full((3, 1), 2.0), torch.ones(1, dtype=torch.float64)
    grad = torch.tensor([[2.0**25], [1.0], [1.0]])
    out, _, of_m = both_ways(capped_relu, x, m, 0, grad)
    assert out.dtype == torch.float32 and of_m.dtype == torch.float64 and of_m.item() == 2**25 + 2


def test_no_memory_is_an_error_of_its_own():
    if mixaug_ext.library() is None:
        pytest.skip("no compiled library")
    x = torch.zeros(2, 3)
    with pytest.raises(MemoryError, match="capped ReLU"):
        _capped_relu._raise(1, x)
    with pytest.raises(RuntimeError, match=r"refused its arguments \(code 3\)"):
        _capped_relu._raise(3, x)
    with pytest.raises(RuntimeError, match=r"refused its arguments \(code 3\)"):  # a dtype that it does not know
        _capped_relu.forward(x, torch.ones(3), 1, (2, 3, 1, 9), False)


def test_a_missing_library_is_said_once_and_changes_nothing(monkeypatch):
    x, m, grad = values_of((4, 3), torch.float32), caps_of((3,)), values_of((4, 3), torch.float32, 1)
    with_it = both_ways(capped_relu, x, m, 1, grad)
    told = []
    monkeypatch.setattr(mixaug_ext, "library", lambda: None)
    monkeypatch.setattr(mixaug_ext, "warn_without", lambda cuda=False: told.append(cuda))
    without = both_ways(capped_relu, x, m, 1, grad)
    assert told == [False] and all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
