"""Records that lie: each field, hostile in every way, ends in the right result or in an error that names the field."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest
import torch
from paths import HELPERS, ROOT
from records_parts import hostile, ipmix_record, pictures, replaced

import mixaug_ext
from mixaug import DynamicMixCut, GeneratedMix, IPMix
from mixaug._records import Rule, Rules, check_record
from mixaug.adautomix import MixDraw
from mixaug.mixing_sets import sample_picks
from mixaug.ops import ipmix_torch, replay_ipmix
from mixaug.ops.composite import composite_boxes, composite_boxes_torch

IPMIX_FIELDS = tuple(ipmix_record()[2].tensors())
MIXCUT_FIELDS = ("boxes", "lam", "index", "beta")
PICK_FIELDS = ("index", "scale", "top", "left", "flip")


def tried(replay, params, field, other=None):
    """Replays the record with each hostile value; returns how many there were and how many were taken."""
    count = taken = 0
    for value in hostile(getattr(params, field)):
        count += 1
        try:
            record = replaced(params, **{field: value})
            result = replay(record)
        except (TypeError, ValueError) as error:
            assert field in str(error), f"{error} does not name {field}"
            assert "must" in str(error)
            continue
        taken += 1
        if other is not None:  # what is taken is computed right: the other form says the same
            assert torch.equal(result, other(record))
    assert count >= 50
    assert taken >= 1  # the value itself, in several dresses
    return count, taken


@pytest.mark.parametrize("field", IPMIX_FIELDS)
def test_ipmix(field):
    ipmix, images, params = ipmix_record()
    bank = pictures().resized(params.side)
    tried(lambda p: ipmix.replay(images, p), params, field, lambda p: ipmix_torch(images, p, bank))


@pytest.mark.parametrize("name", ["size", "batch", "views", "side", "mixed_input"])
def test_ipmix_numbers(name):
    ipmix, images, params = ipmix_record()
    for value in (None, "3", 2.5, True, -1, 0, 7, 10**12, 2**70, (1,), (32, 32, 3), (-1, 32), [None, 32]):
        if value == getattr(params, name) or (name == "mixed_input" and value is True):
            continue
        with pytest.raises((TypeError, ValueError), match="params"):
            ipmix.replay(images, replaced(params, **{name: value}))


@pytest.mark.parametrize("field", MIXCUT_FIELDS)
def test_dynamic_mixcut(field):
    mix, images, labels = DynamicMixCut(10), torch.rand(6, 3, 16, 16), torch.arange(6)
    params = mix.sample(images, generator=torch.Generator().manual_seed(0))
    tried(lambda p: torch.cat([x.flatten() for x in mix.replay(images, labels, p)]), params, field)


@pytest.mark.parametrize("field", ["index", "ratios", "plain"])
def test_generated_mix(field):
    from mixaug import AdAutoMix
    from mixaug.models import build_model

    torch.manual_seed(0)
    mixer = AdAutoMix(build_model("resnet-small", 10), 10)
    mix = GeneratedMix(mixer.generator, mixer.teacher, num_classes=10)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    tried(lambda p: mix.replay(images, labels, p)[1], mix.sample(images), field)


@pytest.mark.parametrize("field", PICK_FIELDS)
def test_picks(field):
    bank = pictures()
    tried(bank.crop, sample_picks(6, (12, 16), 4, generator=torch.Generator().manual_seed(0)), field)


def test_compact_records_give_the_same_pictures():
    """int32, uint8, int16 and float64 hold what the record holds."""
    ipmix, images, params = ipmix_record(views=2)
    right = ipmix.replay(images, params)
    for small in (torch.int8, torch.int16, torch.int32):
        names = ("depth", "op", "source", "sign", "picture", "top", "left", "box")
        compact = replaced(params, **{name: getattr(params, name).to(small) for name in names})
        assert all(torch.equal(a, b) for a, b in zip(ipmix.replay(images, compact), right, strict=True))
    wide = replaced(
        params, **{name: getattr(params, name).double() for name in ("weight", "m", "level", "a", "b", "keep")}
    )
    assert all(torch.equal(a, b) for a, b in zip(ipmix.replay(images, wide), right, strict=True))
    with pytest.raises(ValueError, match=r"params\.m must be exact"):
        ipmix.replay(images, replaced(params, m=params.m.double() + 1e-12))


def test_a_smaller_mixing_set_is_refused():
    _, images, params = ipmix_record()
    smaller = IPMix(mixing_set=type(pictures()).from_tensor(pictures().pictures[:1]))
    with pytest.raises(ValueError, match=r"params\.picture must be from 0 to 0"):
        smaller.replay(images, params)


def test_an_ablation_replays_a_full_record_right_or_refuses_it():
    ipmix, images, params = ipmix_record()
    only = IPMix(levels=("image",), mixing_set=pictures())
    assert torch.equal(only.replay(images, params), ipmix.replay(images, params))
    with pytest.raises(ValueError, match="params takes pictures"):
        IPMix(levels=("image",)).replay(images, params)


@pytest.mark.parametrize("replay", [replay_ipmix, ipmix_torch])
def test_images_that_no_form_knows(replay):
    _, images, params = ipmix_record()
    bank = pictures().resized(params.side)
    for dtype in (torch.float64, torch.int64, torch.int32, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="images must be uint8, float16, bfloat16 or float32"):
            replay(images.to(dtype), params, bank)
    for wrong in (images[:, :2], images[0], images[..., :0], images[:, :, :15]):
        with pytest.raises(ValueError, match="images"):
            replay(wrong, params, bank)
    for wrong in (bank.float(), bank[:, :2], bank[..., :10], bank[0], bank.to("meta")):
        with pytest.raises((TypeError, ValueError), match=r"pictures|params"):
            replay(images, params, wrong)
    with pytest.raises(TypeError, match="images must be a tensor"):
        replay(images.numpy(), params, bank)
    with pytest.raises(TypeError, match="params must be IPMixParams"):
        replay(images, dataclasses.asdict(params), bank)


def test_the_operators_by_their_names_are_behind_the_checks_too():
    _, images, params = ipmix_record()
    bank, record = pictures().resized(params.side), params.tensors()
    for field, value in (("op", params.op.float()), ("depth", params.depth + 100), ("box", params.box + 4000)):
        with pytest.raises((TypeError, ValueError), match=field):
            torch.ops.mixaug.ipmix(images, bank, [*(record | {field: value}).values()], 1, params.side, False)
    boxes = torch.zeros(6, 2, 4, dtype=torch.int32)
    with pytest.raises(TypeError, match="boxes"):
        torch.ops.mixaug.composite_boxes(images, images, None, None, boxes, None, None)


@pytest.mark.parametrize("composite", [composite_boxes, composite_boxes_torch])
def test_compositing(composite):
    images, boxes = torch.rand(4, 3, 8, 8), torch.tensor([[[0, 0, 4, 4]]]).repeat(4, 1, 1)
    right = torch.arange(4)
    for beta in (float("nan"), float("inf"), -0.1, 1.1):
        with pytest.raises(ValueError, match=r"beta must be from 0 to 1"):
            composite(images, images, boxes, b=images, beta=torch.full((4,), beta))
    for index in (-1, 4, -(2**63), 2**63 - 1):
        with pytest.raises(IndexError, match="index_a"):
            composite(images, images, boxes, index_a=torch.full_like(right, index))
    huge = torch.tensor([[[-(2**63), -(2**63), 2**63 - 1, 2**63 - 1]]]).repeat(4, 1, 1)
    out, area = composite(images, 1 - images, huge)
    assert torch.equal(out, 1 - images) and area.tolist() == [64] * 4


def test_messages_are_the_same_with_and_without_the_compiled_pass(monkeypatch):
    record = MixDraw(torch.tensor([[0, 9]]), torch.tensor([[0.5, 0.5]]), torch.tensor([True]))
    rules, told = Rules(index=Rule(torch.int64, (1, 2), 0, 3), ratios=Rule(torch.float32, (1, 2), 0.6, 1.0)), []
    for library in (mixaug_ext.library(), None):
        monkeypatch.setattr(mixaug_ext, "library", lambda library=library: library)
        with pytest.raises(ValueError) as error:
            check_record(record, rules, torch.device("cpu"), values=True)
        told.append(str(error.value))
    assert told == ["params.index must be from 0 to 3, got 9 at [0, 1]"] * 2


def test_a_fresh_draw_is_not_checked_again(monkeypatch):
    ipmix, images, _ = ipmix_record()
    monkeypatch.setattr("mixaug.ops.ipmix.check_record", None)
    ipmix(images)


# ------------------------------------------------------------------ under sanitizers

GXX = shutil.which("g++")
FLAGS = ["-std=c++17", "-O0", "-g", "-ffp-contract=off", "-fno-trapping-math", "-fPIC", "-shared", "-pthread", "-w"]
FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def sanitizer_runtime() -> str | None:
    if GXX is None or sys.platform != "linux":
        return None
    path = subprocess.run([GXX, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else None


def cxx_runtime() -> str:
    """Loaded with the sanitizer, which else finds no exceptions to follow."""
    return subprocess.run([str(GXX), "-print-file-name=libstdc++.so"], capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sanitizer_runtime() is None, reason="no g++ with sanitizers here")
def test_hostile_records_under_sanitizers(tmp_path):
    """The real library's sources with AddressSanitizer and UBSan, by the code of each instruction set."""
    sources = [
        str(ROOT / "mixaug_ext" / "csrc" / f"{name}.cpp") for name in ("composite", "ipmix", "mixcut", "records")
    ]  # all but the kernels that take no record
    target = tmp_path / "_kernels.so"
    subprocess.run([GXX, *FLAGS, *sources, "-o", str(target)], check=True, timeout=300)
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{sanitizer_runtime()} {cxx_runtime()}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
    }
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HELPERS / "records_script.py"), str(target)]
    for isa in ("avx512", "generic"):  # the widest there is, and none
        chosen = environment | {"MIXAUG_ISA": isa}
        run = subprocess.run(command, env=chosen, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
        assert "runtime error" not in run.stderr and "AddressSanitizer" not in run.stderr, run.stderr[-6000:]
        assert "hostile records through replay" in run.stdout and "straight to the kernel" in run.stdout
