"""ReLU with a learnt cap: gradients of gradients, transforms, fake tensors and compilers, against the plain form."""

from __future__ import annotations

import pytest
import torch
from reference_drelu import both_ways, caps_of, values_of
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import mixaug_ext
from mixaug.nn import DReLU
from mixaug.ops.capped_relu import capped_relu, capped_relu_torch
from mixaug_ext import _capped_relu


@pytest.fixture(params=["compiled", "torch"])
def form(request, monkeypatch):
    """With and without the compiled library."""
    if request.param == "torch":
        monkeypatch.setattr(_capped_relu, "_usable", lambda *_: None)
    elif mixaug_ext.library() is None:
        pytest.skip("no compiled library")
    return request.param


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
    out = capped_relu(x, learnt)
    before = out.detach().clone()
    (of_m,) = torch.autograd.grad(out, learnt, grad)
    assert torch.equal(of_x, wanted_x) and torch.equal(of_m, wanted_m) and torch.equal(out, before)
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
    outside = capped_relu(x, m)  # where their type alone says what they are
    assert type(outside) is type(x) and outside.shape == x.shape
    x, m = torch.randn(2, 3, device="meta", requires_grad=True), torch.ones(3, device="meta", requires_grad=True)
    capped_relu(x, m).sum().backward()
    assert x.grad.shape == (2, 3) and m.grad.shape == (3,)


def test_modes_and_tracers_see_the_operations(form):
    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    x, m = values_of((3, 4), torch.float32), caps_of((4,))
    with Seen() as seen:
        out = capped_relu(x, m)
        again = x.clone()
        assert capped_relu(again, m, inplace=True) is again
    assert "where" in seen.names and torch.equal(out, capped_relu(x, m)) and torch.equal(out, again)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated", "ignore::torch.jit.TracerWarning")
def test_a_traced_layer_computes(form):
    x, m = values_of((3, 4), torch.float32), caps_of((4,))
    traced = torch.jit.trace(lambda x, m: capped_relu(x, m), (x, m))
    assert torch.equal(traced(-x, m + 1), capped_relu(-x, m + 1))


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
