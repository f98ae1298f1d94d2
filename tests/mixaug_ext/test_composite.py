"""Box compositing: every form against the per-pixel reference, gradients, the operator, the CUDA kernel's logic."""

from __future__ import annotations

import pytest
import reference_composite as reference
import torch
from cuda_parts import built_on_cpu
from hypothesis import given, settings
from hypothesis import strategies as st

import mixaug_ext
from mixaug.ops.composite import _composite_op, box_mask, composite_boxes, composite_boxes_torch, union_area
from mixaug_ext import _composite

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]
LAYOUTS = ["contiguous", "channels_last", "sliced", "transposed", "expanded"]


def images_of(shape, dtype, seed, layout="contiguous"):
    generator = torch.Generator().manual_seed(seed)
    n, c, h, w = shape
    if layout == "sliced":  # rows that are part of longer rows
        return images_of((n, c, h + 2, w + 5), dtype, seed)[:, :, 1:-1, 3:-2]
    if layout == "transposed":
        return images_of((n, c, w, h), dtype, seed).transpose(2, 3)
    if layout == "expanded":
        return images_of((1, c, h, w), dtype, seed).expand(shape)
    if dtype == torch.uint8:
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        images = torch.rand(shape, generator=generator).to(dtype)
    return images.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else images


def boxes_of(batch, count, size, seed):
    """Boxes of every kind: inside, over the border, overlapping, empty, turned around."""
    generator = torch.Generator().manual_seed(seed)
    h, w = size
    corner = torch.randint(-4, max(h, w) + 4, (batch, count, 2), generator=generator)
    extent = torch.randint(-2, max(h, w) + 4, (batch, count, 2), generator=generator)
    return torch.cat([corner, corner + extent], -1)


def arguments(shape, dtype, seed, *, two=True, indexed=True, count=3, layout="contiguous"):
    batch = shape[0]
    generator = torch.Generator().manual_seed(seed + 100)
    rows = batch + 2 if indexed else batch
    named = {"boxes": boxes_of(batch, count, shape[2:], seed)}
    if indexed:
        named["index_a"] = torch.randint(0, rows, (batch,), generator=generator)
    if two:
        named["b"] = images_of(shape, dtype, seed + 2, layout)
        named["beta"] = torch.rand(batch, generator=generator)
    return images_of(shape, dtype, seed, layout), images_of((rows, *shape[1:]), dtype, seed + 1, layout), named


def same(result, expected):
    out, area = result
    wanted, areas = expected
    torch.testing.assert_close(out.cpu(), wanted, rtol=0, atol=0)
    assert area.dtype == torch.int64 and area.tolist() == areas


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("two", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference_pixel_by_pixel(dtype, two, layout, device):
    for shape in [(3, 3, 9, 13), (2, 1, 1, 1), (1, 2, 5, 40), (3, 3, 16, 32)]:
        base, a, named = arguments(shape, dtype, 3, two=two, indexed=layout != "expanded", layout=layout)
        expected = reference.composite(base, a, **named)
        moved = {name: value.to(device) for name, value in named.items()}
        before = base._version, a._version
        for form in (composite_boxes, composite_boxes_torch):
            same(form(base.to(device), a.to(device), **moved), expected)
        assert (base._version, a._version) == before


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 70), st.integers(0, 6),
    st.integers(0, 10_000), st.booleans(), st.sampled_from(DTYPES),
)  # fmt: skip
def test_any_shape_and_boxes(batch, channels, height, width, count, seed, two, dtype):
    base, a, named = arguments((batch, channels, height, width), dtype, seed, two=two, count=count)
    expected = reference.composite(base, a, **named)
    same(composite_boxes(base, a, **named), expected)
    same(composite_boxes_torch(base, a, **named), expected)
    assert union_area(named["boxes"], (height, width)).tolist() == expected[1]
    assert box_mask(named["boxes"], (height, width)).sum((1, 2, 3)).tolist() == expected[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_give_the_same(dtype):
    """Large enough for two threads, and for turns that begin and end in the middle of a plane."""
    base, a, named = arguments((5, 3, 333, 401), dtype, 7)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        out, area = composite_boxes(base, a, **named)
    finally:
        torch.set_num_threads(threads)
    expected, areas = composite_boxes_torch(base, a, **named)
    assert torch.equal(out, expected) and torch.equal(area, areas)


def test_every_half_value_is_rounded_as_torch_rounds():
    """All 65,536 bit patterns of both half types, blended with weights that land between two of them."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        a = bits.view(dtype).reshape(1, 1, 256, 256)
        b = a.flip(3)
        for beta in (0.5, 0.3, 1.0):
            named = {"b": b, "beta": torch.tensor([beta]), "boxes": torch.tensor([[[0, 0, 256, 256]]])}
            out, _ = composite_boxes(a, a, **named)
            expected, _ = composite_boxes_torch(a, a, **named)
            torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_keeps_the_memory_format_and_the_inputs(channels_last):
    layout = "channels_last" if channels_last else "contiguous"
    base, a, named = arguments((2, 3, 8, 16), torch.float32, 1, layout=layout)
    copies = base.clone(), a.clone()
    out, _ = composite_boxes(base, a, **named)
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(base, copies[0]) and torch.equal(a, copies[1])


def test_partner_by_index_needs_no_copy_of_the_batch():
    """``a`` may be ``base`` itself, and a large index into a larger tensor works."""
    base = images_of((4, 3, 6, 7), torch.float32, 1)
    boxes = torch.tensor([[[0, 0, 7, 6]]]).expand(4, 1, 4)
    index = torch.tensor([3, 3, 0, 1])
    out, area = composite_boxes(base, base, boxes, index_a=index)
    assert torch.equal(out, base[index]) and area.tolist() == [42] * 4


def test_gradients_of_every_input():
    base, a, named = arguments((3, 2, 5, 6), torch.float32, 2, count=2)
    base, a, b, beta = (x.double().requires_grad_() for x in (base, a, named["b"], named["beta"]))
    index_b = torch.tensor([1, 1, 0])

    def two(base, a, b, beta):
        return composite_boxes(base, a, named["boxes"], b=b, beta=beta, index_a=named["index_a"], index_b=index_b)[0]

    def one(base, a):
        return composite_boxes(base, a, named["boxes"], index_a=named["index_a"])[0]

    assert torch.autograd.gradcheck(two, (base, a, b, beta))
    assert torch.autograd.gradgradcheck(two, (base, a, b, beta))
    assert torch.autograd.gradcheck(one, (base, a))


def test_gradients_of_the_compiled_form_are_those_of_plain_operations():
    base, a, named = arguments((3, 3, 9, 13), torch.float32, 4)
    leaves = [x.clone().requires_grad_() for x in (base, a, named["b"], named["beta"])]
    gradients = []
    for form in (composite_boxes, composite_boxes_torch):
        out, _ = form(leaves[0], leaves[1], **(named | {"b": leaves[2], "beta": leaves[3]}))
        gradients.append(torch.autograd.grad((out * out).sum(), leaves))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("two", [True, False])
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck itself reads it from non-leaves
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_opcheck(dtype, two):
    base, a, named = arguments((2, 3, 5, 6), torch.uint8 if dtype == torch.uint8 else torch.float32, 5, two=two)
    base, a = base.to(dtype), a.to(dtype)
    b = named["b"].to(dtype) if two else None
    beta = named["beta"].to(torch.float64 if dtype == torch.float64 else torch.float32) if two else None
    if dtype in (torch.float32, torch.float64):
        base.requires_grad_()
    torch.library.opcheck(_composite_op, (base, a, b, beta, named["boxes"], named["index_a"], None))


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    base, a, named = arguments((2, 3, 8, 8), torch.float32, 6)

    def step(base, a, b, beta, boxes):
        out, area = composite_boxes(base * 1.0, a, boxes, b=b, beta=beta, index_a=named["index_a"])
        return out + 1, area

    inputs = (base, a, named["b"], named["beta"], named["boxes"])
    out, area = torch.compile(step, fullgraph=True, backend="aot_eager")(*inputs)
    expected, areas = step(*inputs)
    assert torch.equal(out, expected) and torch.equal(area, areas)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_graph_capture():
    base, a, named = arguments((4, 3, 32, 32), torch.float32, 6)
    base, a, named = base.cuda(), a.cuda(), {name: value.cuda() for name, value in named.items()}
    composite_boxes(base, a, **named)  # loads the kernels outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, area = composite_boxes(base, a, **named)
    base.copy_(base.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    expected, areas = composite_boxes_torch(base, a, **named)
    assert torch.equal(out, expected) and torch.equal(area, areas)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"base": [1]}, TypeError, "base must be a tensor, got list"),
        ({"base": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, TypeError, "base must be of uint8"),
        ({"base": torch.zeros(3, 4, 5)}, ValueError, r"base must have shape \(B, C, H, W\)"),
        ({"a": torch.zeros(2, 3, 4, 5, dtype=torch.float16)}, TypeError, "a must have base's dtype"),
        ({"a": torch.zeros(2, 3, 4, 6)}, ValueError, "a must have shape"),
        ({"a": torch.zeros(3, 3, 4, 5)}, ValueError, "a must have shape"),
        ({"a": torch.zeros(2, 3, 4, 5, device="meta")}, ValueError, "a must be on base's device cpu, got meta"),
        ({"boxes": torch.zeros(2, 1, 4)}, TypeError, "boxes must be an int64 tensor"),
        ({"boxes": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, r"boxes must have shape \(2, N, 4\), got"),
        ({"b": None}, ValueError, "b and beta must be given together"),
        ({"beta": None}, ValueError, "b and beta must be given together"),
        ({"beta": torch.zeros(2, dtype=torch.float64)}, TypeError, "beta must be a float32 tensor"),
        ({"beta": torch.zeros(3)}, ValueError, r"beta must have shape \(2,\)"),
        ({"index_a": torch.zeros(2)}, TypeError, "index_a must be a int64 tensor"),
        ({"index_a": torch.tensor([0, 2])}, IndexError, "index"),
        ({"index_b": torch.tensor([-1, 0])}, IndexError, "index"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, error, message):
    named = {
        "base": torch.zeros(2, 3, 4, 5), "a": torch.zeros(2, 3, 4, 5), "boxes": torch.zeros(2, 1, 4, dtype=torch.int64),
        "b": torch.zeros(2, 3, 4, 5), "beta": torch.zeros(2),
    } | change  # fmt: skip
    if mixaug_ext.library() is None and error is IndexError and "-1" in str(change):
        pytest.skip("PyTorch counts negative indices from the end")
    with pytest.raises(error, match=message):
        composite_boxes(named.pop("base"), named.pop("a"), named.pop("boxes"), **named)


# ------------------------------------------------------------------ the CUDA kernel, block by block on the CPU


@pytest.fixture(scope="module")
def cuda_on_cpu(tmp_path_factory):
    """The CUDA source built as C++ with the shim of cuda_on_cpu.h."""
    return built_on_cpu(tmp_path_factory.mktemp("cuda"), "composite")


def run_kernel(lib, base, a, named):
    given = (named.get("b"), named.get("beta"), named["boxes"], named.get("index_a"), named.get("index_b"))
    words, out, area, kept = _composite.arguments(base, a, *given, flat=True)
    code = lib.mixaug_composite_cuda(_composite._pack(*words, 1, 0))
    del kept
    return code, out, area


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("two", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_kernel_logic(cuda_on_cpu, dtype, two, layout):
    # Vectors of 16 bytes, of 4, single values, rows shorter than a vector; more than one block an image in the last.
    for shape in [(2, 3, 8, 16), (3, 3, 9, 13), (2, 2, 6, 2), (1, 1, 1, 1), (1, 3, 100, 80)]:
        base, a, named = arguments(shape, dtype, 11, two=two, indexed=layout != "expanded", layout=layout)
        code, out, area = run_kernel(cuda_on_cpu, base, a, named)
        expected, areas = composite_boxes_torch(base, a, **named)
        assert code == 0 and torch.equal(out, expected) and torch.equal(area, areas), shape


def test_cuda_kernel_traps_on_a_bad_index(cuda_on_cpu):
    base, a, named = arguments((2, 3, 4, 5), torch.float32, 1)
    code, _, _ = run_kernel(cuda_on_cpu, base, a, named | {"index_a": torch.tensor([0, 99])})
    assert code == 1000 + 710


def test_cuda_kernel_refuses_more_boxes_than_it_has_room_for(cuda_on_cpu):
    base, a, named = arguments((1, 1, 4, 5), torch.float32, 1, count=513)
    code, _, _ = run_kernel(cuda_on_cpu, base, a, named)
    assert code == 3
