"""ReLU with a learnt cap: each form against plain loops, its memory, and what autograd and compilers make of it."""

from __future__ import annotations

import math

import pytest
import reference_drelu as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

import mixaug_ext
from mixaug.nn import DReLU, SReLU
from mixaug.ops.capped_relu import capped_relu, capped_relu_torch
from mixaug_ext import _capped_relu

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
NAN, INF = math.nan, math.inf
#: Sizes that meet each walk through memory: the shape of x, of m, dim.
SIZES = [
    ((7, 5), (5,), 1), ((3, 4, 7, 7), (4,), 1), ((2, 3, 24, 25), (3,), 1), ((2, 3, 4, 5), (3, 4, 5), 1), ((3, 50), (), 0),
    ((1, 6), (6,), 1), ((2, 9000), (1,), 1), ((9,), (9,), 0), ((), (), 0), ((2, 1, 3, 2, 2, 3), (3, 2), 2),
    ((2, 3, 4), (4,), -1), ((65, 33), (33,), 1), ((300, 3), (3,), 1), ((1, 1), (1,), 0), ((2, 2, 600), (2,), 1),
]  # fmt: skip


@pytest.fixture(params=["compiled", "torch"])
def form(request, monkeypatch):
    """With and without the compiled library."""
    if request.param == "torch":
        monkeypatch.setattr(_capped_relu, "_sizes", lambda x, max_value, dim: None)
    elif mixaug_ext.library() is None:
        pytest.skip("no compiled library")
    return request.param


def values_of(shape, dtype, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def caps_of(shape, seed=0, dtype=torch.float32):
    """Below and above 0, so that some units are dead, some capped and some not."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed + 50)) + 1).to(dtype)


def same_bits(a, b):
    """Equal values, NaN included, and equal signs of zeros."""
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    number = ~a.isnan()
    return torch.equal(a.signbit() & number, b.signbit() & number)


def formats(tensor):
    """Whether it is contiguous, and channels_last: strides of dimensions of size 1 say nothing."""
    return tensor.is_contiguous(), tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def same_values(a, b):
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def both_ways(function, x, m, dim, grad, **more):
    x, m = x.detach().requires_grad_(), m.detach().requires_grad_()
    out = function(x, m, dim, **more)
    of_x, of_m = torch.autograd.grad(out, (x, m), grad)
    return out.detach(), of_x, of_m


def close_sums(of_m, sums, grad, dtype):
    """Within the rounding of a float32 sum, and of the dtype of the caps."""
    room = 1e-6 * max(1.0, float(grad.double().abs().nan_to_num(0, 0, 0).sum()))
    rounding = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 0)
    wanted = torch.tensor(sums, dtype=torch.float64).reshape(of_m.shape)
    return bool(((of_m.double() - wanted).abs() <= room + rounding * wanted.abs()).all())


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
    assert formats(out) == formats(x.relu())


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
    for shape, caps in [((6, 5, 300, 301), (5,)), ((3001, 333), (333,)), ((700_001,), ()), ((5, 40_000), (40_000,))]:
        for dtype in DTYPES[:3]:
            x, m, grad = values_of(shape, dtype), caps_of(caps), values_of(shape, dtype, 1)
            x = torch.cat([x] * 2) if x.nbytes < 1 << 21 else x
            grad = torch.cat([grad] * 2) if grad.nbytes < 1 << 21 else grad
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
        layer(x).sum()
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


# ------------------------------------------------------------------ autograd, transforms, compilers


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own, in forward mode
@pytest.mark.parametrize(("shape", "caps", "dim"), [((3, 4), (4,), 1), ((2, 3, 2, 2), (3,), 1), ((5,), (), 0)], ids=str)
def test_gradcheck(form, shape, caps, dim):
    x = values_of(shape, torch.float64).requires_grad_()
    m = caps_of(caps, dtype=torch.float64).requires_grad_()
    with torch.no_grad():
        assert (x - m.reshape(-1, *[1] * (x.ndim - 2)) if caps else x - m).abs().min() > 1e-3  # away from the kinks
    for function in (capped_relu, capped_relu_torch):
        assert torch.autograd.gradcheck(lambda x, m: function(x, m, dim), (x, m), check_forward_ad=True)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda x, m: function(x, m, dim), (x, m))  # noqa: B023


def test_gradient_of_a_gradient_in_float32(form):
    """The compiled backward pass is left out there: a penalty on the gradient reaches what came before."""
    m, weight = caps_of((6,)), torch.full((6,), 0.7)
    results = []
    for function in (capped_relu, capped_relu_torch):
        x, w, learnt = (t.clone().requires_grad_() for t in (values_of((5, 6), torch.float32), weight, m))
        out = function(x * w, learnt)
        (of_x,) = torch.autograd.grad((out * out).sum(), x, create_graph=True)
        results.append(torch.autograd.grad((of_x * of_x).sum(), (x, w, learnt)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert results[0][2].abs().sum() == 0 and results[0][1].abs().sum() > 0


def test_only_what_is_asked_for(form):
    x, m, grad = values_of((70, 6), torch.float32), caps_of((6,)), values_of((70, 6), torch.float32, 1)
    _, wanted_x, wanted_m = both_ways(capped_relu, x, m, 1, grad)
    alone = x.clone().requires_grad_()
    (of_x,) = torch.autograd.grad(capped_relu(alone, m), alone, grad)
    learnt = m.clone().requires_grad_()
    (of_m,) = torch.autograd.grad(capped_relu(x, learnt), learnt, grad)
    assert torch.equal(of_x, wanted_x) and torch.equal(of_m, wanted_m)
    wide = x[:, :, None].repeat(1, 1, 600)  # the walk of long runs
    (of_m,) = torch.autograd.grad(capped_relu(wide, learnt), learnt, torch.ones(70, 6, 600))
    assert torch.equal(of_m, ((m > 0) & (x >= m)).sum(0) * 600.0)
    assert not capped_relu(x, m).requires_grad


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own, in forward mode
def test_functional_transforms(form):
    x, m = values_of((3, 4), torch.float32), caps_of((4,))

    def total(x, m):
        return (capped_relu(x, m) ** 2).sum()

    def plain(x, m):
        return (capped_relu_torch(x, m) ** 2).sum()

    for of in (0, 1):
        torch.testing.assert_close(torch.func.grad(total, of)(x, m), torch.func.grad(plain, of)(x, m))
        jacobian = torch.func.jacrev(capped_relu, of)(x, m)
        torch.testing.assert_close(jacobian, torch.func.jacrev(capped_relu_torch, of)(x, m))
        torch.testing.assert_close(torch.func.jacfwd(capped_relu, of)(x, m), jacobian)
        _, tangent = torch.func.jvp(torch.func.grad(total, of), (x, m), (x, m))
        torch.testing.assert_close(tangent, torch.func.jvp(torch.func.grad(plain, of), (x, m), (x, m))[1])
    stack = torch.stack([x, -x, x / 2])
    mapped = torch.vmap(lambda one: capped_relu(one, m))(stack)
    assert torch.equal(mapped, torch.stack([capped_relu(one, m) for one in stack]))
    per_sample = torch.vmap(torch.func.grad(total, 1), (0, None))(stack, m)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(plain, 1)(one, m) for one in stack]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own, in forward mode
def test_batched_gradients_and_forward_mode(form):
    x, m = values_of((3, 4), torch.float32).requires_grad_(), caps_of((4,)).requires_grad_()
    grads = values_of((5, 3, 4), torch.float32, 1)
    batched = torch.autograd.grad(capped_relu(x, m), (x, m), grads, is_grads_batched=True)
    singly = [torch.autograd.grad(capped_relu(x, m), (x, m), grad) for grad in grads]
    for got, wanted in zip(batched, zip(*singly, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(wanted))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), grads[0])
        tangent = forward_ad.unpack_dual(capped_relu(dual, m.detach())).tangent
    assert torch.equal(tangent, singly_tangent(x.detach(), m.detach(), grads[0]))


def singly_tangent(x, m, direction):
    return torch.where((x > 0) & (x < m), direction, 0)


def test_fake_and_meta_tensors(form):
    with FakeTensorMode():
        x, m = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True), torch.ones(3, requires_grad=True)
        out = capped_relu(x, m)
        out.sum().backward()
        assert out.shape == x.shape and out.dtype == torch.bfloat16
        assert m.grad.shape == (3,) and x.grad.dtype == torch.bfloat16
    x, m = torch.randn(2, 3, device="meta", requires_grad=True), torch.ones(3, device="meta", requires_grad=True)
    capped_relu(x, m).sum().backward()
    assert x.grad.shape == (2, 3) and m.grad.shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_graph_equals_eager(dtype):
    layer, eager = DReLU(5, init=0.8), DReLU(5, init=0.8)
    compiled = torch.compile(layer, fullgraph=True)
    for shape in [(6, 5), (2, 5, 4, 3)]:
        x, grad = values_of(shape, dtype), values_of(shape, dtype, 1)
        results = []
        for called, owner in ((compiled, layer), (eager, eager)):
            leaf = x.clone().requires_grad_()
            out = called(leaf)
            results.append((out.detach(), *torch.autograd.grad(out, (leaf, owner.max_value), grad)))
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
        torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-5, atol=1e-5)


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


def test_no_memory_is_an_error_of_its_own(monkeypatch):
    if mixaug_ext.library() is None:
        pytest.skip("no compiled library")
    x = torch.zeros(2, 3)
    with pytest.raises(MemoryError, match="capped ReLU"):
        _capped_relu._raise(1, x)
    with pytest.raises(RuntimeError, match=r"refused its arguments \(code 3\)"):
        _capped_relu._raise(3, x)
    monkeypatch.setitem(_capped_relu._DTYPES, torch.float32, 9)  # a dtype that the kernel does not know
    with pytest.raises(RuntimeError, match=r"refused its arguments \(code 3\)"):
        capped_relu(x, torch.ones(3))


def test_a_missing_library_is_said_once_and_changes_nothing(monkeypatch):
    x, m, grad = values_of((4, 3), torch.float32), caps_of((3,)), values_of((4, 3), torch.float32, 1)
    with_it = both_ways(capped_relu, x, m, 1, grad)
    told = []
    monkeypatch.setattr(mixaug_ext, "library", lambda: None)
    monkeypatch.setattr(mixaug_ext, "warn_without", lambda cuda=False: told.append(cuda))
    without = both_ways(capped_relu, x, m, 1, grad)
    assert told == [False] and all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
