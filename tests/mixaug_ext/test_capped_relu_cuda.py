"""The CUDA kernels of ReLU with a cap: their logic block by block on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import ctypes

import pytest
import torch
from cuda_parts import built_on_cpu

import mixaug_ext
from mixaug.ops.capped_relu import capped_relu
from mixaug_ext import _capped_relu

CODES = {torch.float16: 1, torch.bfloat16: 2, torch.float32: 3}
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or mixaug_ext.cuda_library() is None, reason="no GPU or no CUDA kernels"
    ),
]
F16, BF16, F32 = CODES
#: (outer, caps, inner), dtype: one cap, runs, columns, periods with and without a whole number of vectors, a last row
#: cut short, and more than one row and band of each.
CASES = [
    ((1, 1, 5003), F16), ((1, 1, 270_008), F32), ((3, 4, 16), BF16), ((5, 3, 7), F16), ((70, 33, 1), F32),
    ((65, 32, 1), F16), ((2, 3, 1000), F32), ((9, 1, 8), BF16), ((1, 6, 1), F32), ((40_000, 3, 1), F16),
    ((2600, 64, 1), F32), ((90, 8, 64), BF16),
]  # fmt: skip


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The CUDA source built as C++ with the shim of cuda_on_cpu.h."""
    library = built_on_cpu(tmp_path_factory.mktemp("cuda"), "capped_relu")
    library.mixaug_capped_relu_partials.restype = ctypes.c_int64
    return library


def inputs(sizes, dtype, seed=0):
    """x, caps, gradient: (outer, caps, inner); caps below 0, within and above the values."""
    g = torch.Generator().manual_seed(seed)
    x, grad = torch.randn(sizes, generator=g).to(dtype), torch.randn(sizes, generator=g).to(dtype)
    x.view(-1)[::13] = 0.0
    if x.numel() > 20:
        x.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    return x, torch.randn(sizes[1], generator=g) + 0.5, grad


def pack(x, kept, caps, out, of_cap, partials, sizes):
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in (x, kept, caps, out, of_cap, partials)]
    return _capped_relu._pack(*pointers, *sizes, CODES[x.dtype], 0, 0, 0)


def shifted(tensor, by):
    """The same values at an address that is no multiple of 16 bytes."""
    room = torch.empty(tensor.numel() + by, dtype=tensor.dtype)
    return room[by:].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize(("sizes", "dtype"), CASES, ids=str)
def test_kernels_logic_equals_pytorch(kernel, sizes, dtype):
    for by in (0, 1):  # 16 bytes an access, and one element
        x, caps, grad = inputs(sizes, dtype)
        x, grad = shifted(x, by), shifted(grad, by)
        dim = 0 if sizes[1] == 1 else 1
        expected = _capped_relu.forward_torch(x.clone(), caps, dim, False)
        wanted_x, wanted_m = _capped_relu.backward_torch(grad, expected, caps, dim)
        room = kernel.mixaug_capped_relu_partials(pack(x, None, caps, x, None, None, sizes))
        assert room >= 1
        guard = 7.5
        partials = torch.full((room + 1,), guard)
        for in_place in (False, True):
            out = shifted(x, by) if in_place else shifted(torch.full_like(x, 3), by)
            code = kernel.mixaug_capped_relu_cuda(pack(out if in_place else x, None, caps, out, None, None, sizes))
            assert code == 0
            torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
        of_x, of_m = shifted(torch.full_like(x, 3), by), torch.full_like(caps, 3)
        words = pack(grad, out, caps, of_x, of_m, partials, sizes)
        assert kernel.mixaug_capped_relu_backward_cuda(words) == 0
        assert torch.equal(of_x, wanted_x) and partials[-1] == guard
        torch.testing.assert_close(of_m, wanted_m, rtol=1e-5, atol=1e-3)
        alone_x, alone_m = torch.full_like(of_x, 3), torch.full_like(caps, 3)
        assert kernel.mixaug_capped_relu_backward_cuda(pack(grad, out, caps, alone_x, None, None, sizes)) == 0
        assert kernel.mixaug_capped_relu_backward_cuda(pack(grad, out, caps, None, alone_m, partials, sizes)) == 0
        assert torch.equal(alone_x, wanted_x) and torch.equal(alone_m, of_m)  # the same bits every time


def test_nothing_to_do(kernel):
    x, caps, of_m = torch.zeros(0, 3, 1), torch.ones(3), torch.full((3,), 5.0)
    assert kernel.mixaug_capped_relu_partials(pack(x, None, caps, x, None, None, (0, 3, 1))) == 0
    assert kernel.mixaug_capped_relu_cuda(pack(x, None, caps, x, None, None, (0, 3, 1))) == 0
    assert kernel.mixaug_capped_relu_backward_cuda(pack(x, x, caps, x, of_m, None, (0, 3, 1))) == 0
    assert of_m.tolist() == [0.0] * 3


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize("dtype", list(CODES), ids=str)
def test_equal_on_a_gpu(dtype, device):
    shapes = [
        ((64, 512), (512,)),
        ((8, 16, 20, 20), (16,)),
        ((9, 5, 7, 7), (5,)),
        ((9, 5, 7, 7), (1,)),
        ((4, 3, 6), (3, 6)),
    ]
    for shape, caps in shapes:
        for channels_last in (False, True):
            g = torch.Generator().manual_seed(1)
            x, grad = torch.randn(shape, generator=g).to(dtype), torch.randn(shape, generator=g).to(dtype)
            m = torch.randn(caps, generator=g) + 0.5
            if channels_last and len(shape) == 4:
                x = x.to(memory_format=torch.channels_last)
            results = []
            for where in ("cpu", device, device):
                leaf, learnt = x.to(where).requires_grad_(), m.to(where).requires_grad_()
                out = capped_relu(leaf, learnt)
                results.append(
                    [t.detach().cpu() for t in (out, *torch.autograd.grad(out, (leaf, learnt), grad.to(where)))]
                )
            for on_device in results[1:]:
                assert torch.equal(on_device[0], results[0][0]) and torch.equal(on_device[1], results[0][1])
                torch.testing.assert_close(on_device[2], results[0][2], rtol=1e-5, atol=1e-3)
            assert torch.equal(results[1][2], results[2][2])


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
def test_runs_on_the_current_stream_and_in_a_graph(device):
    x, m = torch.randn(64, 512, device=device), torch.ones(512, device=device)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        filled = torch.zeros(1 << 24, device=device).add_(2.0).view(-1, 512)
        out = capped_relu(filled, m)
    stream.synchronize()
    assert bool((out == 1).all())
    capped_relu(x, m)  # nothing is loaded during the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = capped_relu(x, m)
    x.fill_(0.25)
    graph.replay()
    assert bool((out == 0.25).all())
