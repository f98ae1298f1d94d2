"""IPMix's CUDA kernel: its logic block by block on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess

import pytest
import torch
from cuda_parts import built_on_cpu
from paths import ROOT

import mixaug_ext
from mixaug.ops import ipmix_torch, replay_ipmix
from mixaug.ops.ipmix import _empty_rows, _record_of
from mixaug.ops.ipmix_record import IMAGE_OPERATIONS, OPERATIONS, IPMixParams
from mixaug.transforms.ipmix import LEVELS, STRUCTURES, IPMixSettings, sample_ipmix
from mixaug_ext import _ipmix

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
NVCC = shutil.which("nvcc")
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or mixaug_ext.cuda_library() is None, reason="no GPU or no CUDA kernels"
    ),
]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The CUDA source built as C++ with the shim of cuda_on_cpu.h."""
    return built_on_cpu(tmp_path_factory.mktemp("cuda"), "ipmix")


def run(kernel: ctypes.CDLL, images: torch.Tensor, params: IPMixParams, pictures: torch.Tensor) -> torch.Tensor:
    out = _empty_rows(images, params.views)
    out.fill_(1)  # what the kernel leaves out shows
    record = _record_of(params, images.dtype)
    blocks = 2  # fewer than rows: a block takes several images in turn
    code = _ipmix.launch(kernel, images, out, pictures, record, params.side, params.mixed_input, blocks, 0)
    assert code == 0
    return out


def images_of(batch, channels, size, dtype, seed=0):
    images = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
    return (images * 255).round().to(dtype) if dtype == torch.uint8 else images.to(dtype)


def pictures_of(side):
    return torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))


def draw(batch, size, *, structure="chain", levels=LEVELS, all_ops=True, self_mix=0.5, views=1, k=3, t=3, seed=1):
    patches = tuple(side for side in (4, 8, 16) if side < min(size))
    s = IPMixSettings(k, t, 10.0, 3.0, patches, self_mix, structure, levels, all_ops)
    generator = torch.Generator().manual_seed(seed)
    return sample_ipmix(batch, size, s, views=views, pictures=5, side=max(size) + 5, generator=generator)


def every_operation(size):
    """A record whose image-level and mixing steps, with every source, each happen at full depth."""
    params = draw(len(OPERATIONS) * 2, size, k=1, t=2, seed=4)
    op, source = params.op.clone(), params.source.clone()
    codes = torch.arange(len(op)) % len(OPERATIONS)
    op[:, 0, 0] = codes
    op[:, 0, 1] = codes.flip(0)
    source[:, 0, :] = torch.where(op[:, 0] >= len(IMAGE_OPERATIONS), (torch.arange(len(op)) % 16)[:, None] - 1, -1)
    depth, m = torch.full_like(params.depth, 2), torch.ones_like(params.m)
    return dataclasses.replace(params, op=op, source=source, depth=depth, m=m)


def same(kernel, images, params, pictures):
    expected = ipmix_torch(images, params, pictures)
    assert torch.equal(run(kernel, images, params, pictures), expected)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("levels", [LEVELS, ("image",), ("patch",), ("pixel",)], ids=str)
def test_structures_and_levels(kernel, structure, levels):
    for size, channels in (((32, 32), 3), ((33, 47), 1)):
        params = draw(4, size, structure=structure, levels=levels, seed=size[0])
        same(kernel, images_of(4, channels, size, torch.uint8), params, pictures_of(params.side))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_dtypes_and_channels(kernel, dtype, channels):
    params = draw(3, (33, 47), views=2, structure="mixed_input")
    same(kernel, images_of(3, channels, (33, 47), dtype), params, pictures_of(params.side))
    params = draw(3, (33, 47), all_ops=False, self_mix=0.0)
    same(kernel, images_of(3, channels, (33, 47), dtype), params, pictures_of(params.side))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_every_operation_and_source(kernel, size, channels):
    params = every_operation(size)
    same(kernel, images_of(params.batch, channels, size, torch.uint8), params, pictures_of(params.side))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9), (7, 2)])
def test_tiny_images(kernel, size):
    params = draw(6, size, levels=("image", "pixel"))
    same(kernel, images_of(6, 3, size, torch.uint8), params, pictures_of(params.side))


def test_flat_images(kernel):
    """Images of one value: equalize and autocontrast have no range."""
    params = every_operation((9, 8))
    images = torch.full((params.batch, 3, 9, 8), 77, dtype=torch.uint8)
    same(kernel, images, params, pictures_of(params.side))


def test_scratch_memory(kernel):
    """Images that do not fit into shared memory, more of them than blocks, and more chains than usual."""
    params = draw(3, (65, 70), views=2)
    assert kernel.mixaug_ipmix_cuda_shared() < 5 * 3 * 65 * 70
    same(kernel, images_of(3, 3, (65, 70), torch.float32), params, pictures_of(params.side))
    params = draw(2, (33, 47), k=9, t=5, structure="mixed_input")
    assert kernel.mixaug_ipmix_cuda_shared() < 11 * 3 * 33 * 47
    same(kernel, images_of(2, 3, (33, 47), torch.uint8), params, pictures_of(params.side))


@pytest.mark.parametrize("channels", [1, 3])
def test_enlarged_pictures(kernel, channels):
    params = draw(6, (33, 47), levels=("patch", "pixel"), self_mix=0.0)
    same(kernel, images_of(6, channels, (33, 47), torch.uint8), params, pictures_of(29))


def test_strides(kernel):
    params = draw(3, (16, 20))
    pictures = pictures_of(params.side)
    last = images_of(3, 3, (16, 20), torch.float32).contiguous(memory_format=torch.channels_last)
    wide = images_of(3, 3, (18, 45), torch.float32)[:, :, 1:-1, 3:-2:2]
    for images in (last, wide, wide[:1].expand(3, -1, -1, -1)):
        same(kernel, images, params, pictures)


def test_one_image(kernel):
    for seed in range(4):
        params = draw(1, (32, 32), seed=seed)
        same(kernel, images_of(1, 3, (32, 32), torch.float32, seed), params, pictures_of(params.side))


def test_replay_takes_the_kernel_for_a_gpu(kernel, monkeypatch):
    """The branch of a GPU, with the kernel built for the CPU in its place: views, layouts, no images."""

    def launched(images, out, pictures, record, *, side, mixed_input):
        calls.append(out.shape)
        assert _ipmix.launch(kernel, images, out, pictures, record, side, mixed_input, 2, 0) == 0

    calls = []
    monkeypatch.setattr(_ipmix, "usable_on_gpu", lambda images: True)
    monkeypatch.setattr(_ipmix, "ipmix_cuda", launched)
    for dtype, views in ((torch.bfloat16, 2), (torch.uint8, 1)):
        params = draw(3, (16, 20), views=views)
        images = images_of(3, 3, (16, 20), dtype).contiguous(memory_format=torch.channels_last)
        out = replay_ipmix(images, params, pictures_of(params.side))
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(out, ipmix_torch(images, params, pictures_of(params.side)))
    assert calls == [(6, 3, 16, 20), (3, 3, 16, 20)]
    assert replay_ipmix(images[:0], draw(0, (16, 20)), pictures_of(25)).shape == (0, 3, 16, 20)


def test_a_picture_that_is_not_there_traps(kernel):
    params = every_operation((8, 8))
    params = dataclasses.replace(params, picture=torch.full_like(params.picture, 99))
    images, record = images_of(params.batch, 3, (8, 8), torch.uint8), _record_of(params, torch.uint8)
    code = _ipmix.launch(kernel, images, images.clone(), pictures_of(13), record, 13, False, 2, 0)
    assert code == 1000 + 710


def test_bad_arguments_are_refused(kernel):
    params = draw(2, (8, 8))
    record = _record_of(params, torch.uint8)
    images = torch.zeros(2, 2, 8, 8, dtype=torch.uint8)
    assert _ipmix.launch(kernel, images, images.clone(), pictures_of(13), record, 13, False, 2, 0) == 3


def test_without_a_gpu_the_call_says_so():
    if mixaug_ext.cuda_library() is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="needs the CUDA library"):
        _ipmix.ipmix_cuda(torch.zeros(1), torch.zeros(1), torch.zeros(1), {}, side=8, mixed_input=False)
    assert "inactive" in mixaug_ext.status()["ipmix (CUDA)"]


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
def test_compiles_with_nvcc(tmp_path):
    source = ROOT / "mixaug_ext" / "csrc" / "ipmix.cu"
    command = [NVCC, "-std=c++17", "-fmad=false", "-arch=sm_90", "-cubin", str(source), "-o", str(tmp_path / "a.cubin")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr


# ------------------------------------------------------------------ on a GPU


def gpu_inputs(size, dtype, **settings):
    params = draw(6, size, **settings)
    return images_of(6, 3, size, dtype).cuda(), params.to("cuda"), pictures_of(params.side).cuda()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [pytest.param(size, marks=on_gpu) for size in ((32, 32), (33, 47), (224, 224))])
def test_gpu_equals_the_pytorch_form(size, dtype):
    for structure in STRUCTURES:
        inputs = gpu_inputs(size, dtype, structure=structure, views=2)
        assert torch.equal(replay_ipmix(*inputs), ipmix_torch(*inputs))


@pytest.mark.parametrize("size", [pytest.param(size, marks=on_gpu) for size in ((32, 32), (224, 224))])
def test_gpu_graph_capture_and_other_stream(size):
    images, params, pictures = gpu_inputs(size, torch.float32)
    replay_ipmix(images, params, pictures)  # loads the kernels outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = replay_ipmix(images, params, pictures)
    images.copy_(images.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, ipmix_torch(images, params, pictures))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = replay_ipmix(images, params, pictures)
    stream.synchronize()
    assert torch.equal(other, out)
