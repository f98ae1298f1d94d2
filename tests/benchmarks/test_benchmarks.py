"""The benchmarks' peers do the same work, and what they share counts right. Nothing here is about time."""

from __future__ import annotations

import importlib.util
import sys

import bench_attacks
import bench_mixcut
import bench_training
import measure
import pytest
import torch

from mixaug.ops.composite import composite_boxes


def test_forms_of_the_compositing_agree():
    i = bench_mixcut.Inputs(5, 12, torch.float32, "cpu")
    i.boxes = i.boxes[:1]
    i.draws = 1
    cases = bench_mixcut.op_cases(i)
    assert list(cases) == list(bench_mixcut.OP_CASES)
    one, area = cases["op, two views"]()
    two, _ = cases["vectorised torch"]()
    assert one.equal(two) and not one.equal(i.x) and int(area.sum()) > 0
    by_index, _ = cases["op, partners by index"]()
    assert torch.allclose(by_index, cases["unfused torch"](), atol=1e-6) and not by_index.equal(i.x)
    cut, _ = cases["op, one source"]()
    assert cut.equal(composite_boxes(i.x, i.a, i.boxes[0])[0])


def test_every_draw_is_used_in_turn():
    i = bench_mixcut.Inputs(2, 8, torch.uint8, "cpu")
    seen = [i.next_boxes().data_ptr() for _ in range(2 * i.draws)]
    assert len(set(seen)) == i.draws and seen[: i.draws] == seen[i.draws :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_whole_calls_mix_images_and_labels(dtype):
    torch.manual_seed(0)  # a box without pixels mixes nothing
    i = bench_mixcut.Inputs(6, 16, dtype, "cpu")
    cases = bench_mixcut.call_cases(i)
    for name in ("DynamicMixCut, partners", "DynamicMixCut, two views", "torchvision CutMix"):
        mixed, targets = cases[name]()
        assert mixed.shape == i.x.shape and mixed.dtype == dtype and not mixed.equal(i.x)
        assert targets.shape == (6, bench_mixcut.CLASSES)
    assert ("kornia CutMixV2, 2 mixes" in cases) == (dtype == torch.float32)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
@pytest.mark.filterwarnings("ignore")
def test_timm_and_kornia_mix_too():
    torch.manual_seed(0)
    i = bench_mixcut.Inputs(6, 16, torch.float32, "cpu")
    cases = bench_mixcut.call_cases(i)
    mixed, targets = cases["timm Mixup elem"]()
    assert not mixed.equal(i.x) and targets.shape == (6, bench_mixcut.CLASSES)
    mixed, _ = cases["kornia CutMixV2, 2 mixes"]()
    assert mixed.shape == i.x.shape and not mixed.equal(i.x)


def test_the_loop_by_hand_is_pgd():
    i = bench_attacks.Inputs("lenet5", 4, "cpu")
    by_hand = bench_attacks.pgd_by_hand(i.model, i.x, i.labels)
    ours = bench_attacks.pgd_cases(i)["mixaug PGD"]()
    for attacked in (by_hand, ours):
        assert (attacked - i.x).abs().max() <= bench_attacks.EPS + 1e-6
        before, after = (torch.nn.functional.cross_entropy(i.model(x), i.labels) for x in (i.x, attacked))
        assert after > before


@pytest.mark.parametrize("method", bench_training.PASSES)
def test_a_training_step_makes_the_passes_that_the_table_says(method, monkeypatch):
    images_seen = []
    build = bench_training.build_model

    def counted(*arguments):
        model = build("lenet5", *arguments[1:])
        model.register_forward_hook(lambda module, inputs, out: images_seen.append((len(out), out.requires_grad)))
        return model

    monkeypatch.setattr(bench_training, "build_model", counted)
    bench_training.training_step(method, "cpu", 4)()
    attack, training = bench_training.PASSES[method]
    with_gradient = sum(count for count, gradient in images_seen if gradient)
    assert with_gradient == 4 * (attack + training)


def test_interleaved_times_every_case_in_every_round():
    calls = []
    got = measure.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, reference="a")
    assert calls[:2] == ["a", "b"] and calls.count("a") == calls.count("b")
    assert 1 <= len(got["a"].seconds) == len(got["b"].seconds) <= 3
    before = torch.get_num_threads()
    measure.interleaved({"a": lambda: None}, 1, threads=1)
    assert torch.get_num_threads() == before


def test_tables_show_ratios_of_the_lower_quartiles():
    timings = {"copy": measure.Timing((1e-3, 1e-3, 1e-3)), "op": measure.Timing((2e-3, 2e-3, 9e-3))}
    rows = list(measure.table(timings, "copy", unit="ms"))
    assert rows[0].endswith("times copy |") and rows[2].endswith("| 1.00 |") and rows[3].endswith("| 2.00 |")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_counts_what_is_freed_before_the_end():
    size = 64 << 20

    def call() -> torch.Tensor:
        large = torch.ones(size, dtype=torch.uint8)
        return large[:4].clone()

    # The system may take pages of the process back meanwhile, such as those of a library's file: never three times.
    assert max(measure.peak_of(call) for _ in range(3)) > size // 2


def test_versions_name_the_packages():
    assert "numpy" in measure.versions("numpy") and torch.__version__ in measure.versions()
