"""The draws of Dynamic MixCut against their laws: boxes, counts, p, beta, partners; compiled and in PyTorch.

Each box of a small image has an exact probability (reference_mixcut.py); draws are compared with it by a chi-square
test. Seeds are fixed and a test fails at p < 1e-4, so none fails by chance: a failure is a change of the law.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import reference_mixcut as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import mixaug_ext
from mixaug.transforms import sample_boxes
from mixaug.transforms.dynamic_mixcut import DynamicMixCutParams, DynamicMixCutSettings, sample_dynamic_mixcut

P = 1e-4
DRAWS = 40_000
CPU_AND_GPU = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]


@pytest.fixture(params=["compiled", "PyTorch"])
def form(request, monkeypatch):
    """Both forms of the sampler draw the same; each law is tested on the one in use."""
    if request.param == "PyTorch":
        monkeypatch.setattr(mixaug_ext, "library", lambda: None)
    elif mixaug_ext.library() is None:
        pytest.skip("no compiled library")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(count: int = DRAWS, size: tuple[int, int] = (12, 16), *, seed: int = 0, **changes) -> DynamicMixCutParams:
    return sample_dynamic_mixcut(count, size, DynamicMixCutSettings(**changes), seeded(seed))


def check_frequencies(observed: Counter, law: dict) -> None:
    """Chi-square of counts against exact probabilities; rare outcomes together; what is impossible must not occur."""
    assert set(observed) <= set(law), set(observed) - set(law)
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-9)
    total = observed.total()
    got, expected, rest = [], [], [0.0, 0.0]
    for outcome, share in law.items():
        if total * share >= 5:
            got.append(observed[outcome])
            expected.append(total * share)
        else:
            rest = [rest[0] + observed[outcome], rest[1] + total * share]
    if rest[1] > 0:
        got.append(rest[0])
        expected.append(rest[1])
    if len(got) == 1:
        assert got[0] == total
        return
    p = stats.chisquare(got, np.array(expected) * (total / sum(expected))).pvalue
    assert p > P, f"p = {p:.1e}"


def check_law(values: Tensor, law) -> None:
    p = stats.kstest(values.double().flatten().numpy(), law.cdf).pvalue
    assert p > P, f"p = {p:.1e}, mean {values.double().mean():.4f}, expected {law.mean():.4f}"


def check_independent(first: Tensor, second: Tensor, what: object = "") -> None:
    table = stats.contingency.crosstab(ranks(first), ranks(second)).count
    p = stats.chi2_contingency(table).pvalue
    assert p > P, f"{what}: p = {p:.1e}"


def ranks(values: Tensor, count: int = 4) -> np.ndarray:
    array = values.double().flatten().numpy()
    return np.searchsorted(np.unique(np.quantile(array, np.linspace(0, 1, count + 1)[1:-1])), array, side="right")


def outcomes(boxes: Tensor) -> Counter:
    return Counter(map(tuple, boxes.reshape(-1, 4).tolist()))


# ---------------------------------------------------------------- one box


@pytest.mark.parametrize("size", [(3, 4), (5, 5), (1, 6), (7, 2), (1, 1), (4, 9)], ids=str)
def test_boxes_follow_cutmix(form, size):
    """Corners and sides together, every pixel's rounding and clipping included."""
    boxes = sample_boxes(DRAWS // 2, size, generator=seeded(1))
    law = reference.box_law(size)
    for box in range(2):
        check_frequencies(outcomes(boxes[:, box]), law)


def test_the_law_of_the_reference_is_cutmix_s():
    """The side of a box is the root of a uniform share, its centre uniform: simulated with NumPy, without rounding."""
    rng = np.random.default_rng(0)
    n, (h, w) = 400_000, (31, 50)
    side, cx, cy = np.sqrt(1 - rng.random(n)), rng.random(n) * w, rng.random(n) * h
    wide = np.minimum(cx + side * w / 2, w) - np.maximum(cx - side * w / 2, 0)
    tall = np.minimum(cy + side * h / 2, h) - np.maximum(cy - side * h / 2, 0)
    law = reference.box_law((h, w))
    mean = sum(p * (x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), p in law.items())
    assert mean == pytest.approx((wide * tall).mean(), rel=0.005)


@pytest.mark.parametrize("area", [(0.1, 0.2), (0.0, 0.02), (0.5, 1.0), (0.25, 0.25), (1.0, 1.0), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("size", [(4, 5), (9, 3)], ids=str)
def test_boxes_of_an_area_lie_inside(form, size, area):
    boxes = sample_boxes(DRAWS // 2, size, area=area, count=1, generator=seeded(2))
    check_frequencies(outcomes(boxes), reference.box_law(size, area))


@pytest.mark.parametrize("square", [True, False])
def test_area_is_uniform_in_its_range(square):
    """Large images, so that rounding to pixels does not matter."""
    low, high = 0.2, 0.6
    boxes = sample_boxes(DRAWS, (4001, 6007), count=1, area=(low, high), square=square, generator=seeded(3))[:, 0]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([6007, 4001])).all()
    share = (boxes[:, 2:] - boxes[:, :2]).double() / torch.tensor([6007, 4001])
    check_law(share.prod(1), stats.uniform(low, high - low))
    if square:
        assert (share[:, 0] - share[:, 1]).abs().max() < 3e-4
    else:
        assert (share[:, 0] / share[:, 1]).log().std() > 0.4
    free = 1 - share
    place = boxes[:, :2] / torch.tensor([6007, 4001]) / free
    for axis in range(2):
        kept = free[:, axis] > 0.1
        check_law(place[kept, axis], stats.uniform)
        check_independent(place[kept, axis], share[kept, axis])
    check_independent(place[:, 0], place[:, 1])


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("size", [(4, 5), (9, 3)], ids=str)
def test_free_aspect_inside(size, share):
    boxes = sample_boxes(DRAWS // 2, size, count=1, area=(share, share), square=False, generator=seeded(4))
    check_frequencies(outcomes(boxes), reference.free_box_law(size, share, inside=True))


def test_free_aspect_keeps_the_share_and_reaches_a_third_and_three():
    h, w = 3001, 2003
    boxes = sample_boxes(DRAWS, (h, w), count=1, area=(0.1, 0.1), square=False, generator=seeded(5))[:, 0]
    wide, tall = (boxes[:, 2] - boxes[:, 0]).double() / w, (boxes[:, 3] - boxes[:, 1]).double() / h
    assert (wide * tall - 0.1).abs().max() < 5e-4
    logarithm = (tall / wide).log()
    check_law(logarithm, stats.uniform(-np.log(3), 2 * np.log(3)))
    boxes = sample_boxes(DRAWS, (h, w), count=1, area=(0.6, 0.6), square=False, generator=seeded(6))[:, 0]
    wide, tall = (boxes[:, 2] - boxes[:, 0]).double() / w, (boxes[:, 3] - boxes[:, 1]).double() / h
    assert (wide * tall - 0.6).abs().max() < 1e-3  # the aspect gives way, not the share
    check_law((tall / wide).log(), stats.uniform(np.log(0.6), -2 * np.log(0.6)))


def test_free_aspect_of_cutmix_s_law():
    """The share is U(0, 1): the exact law at many shares, averaged."""
    size, points = (4, 5), 400
    law: Counter = Counter()
    for i in range(points):
        for box, p in reference.free_box_law(size, (i + 0.5) / points, inside=False).items():
            law[box] += p / points
    observed = outcomes(sample_boxes(DRAWS // 2, size, count=1, square=False, generator=seeded(7)))
    possible = {box: share for box, share in law.items() if share > 1e-12}
    # Shares between the points reach a few boxes more.
    stray = sum(observed.pop(box) for box in set(observed) - set(possible))
    assert stray < 20
    check_frequencies(observed, possible)


def test_left_and_right_top_and_bottom_are_alike():
    """A box laid around its centre must not lean to a side, on odd and even lengths."""
    for h, w in ((8, 11), (5, 6)):
        boxes = sample_boxes(DRAWS, (h, w), count=1, generator=seeded(8))[:, 0]
        mirrored = torch.stack([w - boxes[:, 2], h - boxes[:, 3], w - boxes[:, 0], h - boxes[:, 1]], 1)
        for axis, side in ((0, 0), (1, 1), (2, 2), (3, 3)):
            table = [[int((b[:, axis] == v).sum()) for v in range(max(h, w) + 1)] for b in (boxes, mirrored)]
            counts = np.array(table)
            counts = counts[:, counts.sum(0) > 0]
            p = stats.chi2_contingency(counts).pvalue
            assert p > P, (h, w, side, p)


def test_a_side_may_be_odd_or_even():
    boxes = sample_boxes(2000, (32, 32), area=(0.1, 0.9), generator=seeded(9))
    sides = (boxes[..., 2] - boxes[..., 0]).flatten()
    assert set(sides.tolist()) == set(range(10, 31))


# ---------------------------------------------------------------- several boxes, p, beta, partners


@pytest.mark.parametrize("count", [1, 2, 5, (1, 4), (3, 3), (2, 6)], ids=str)
def test_number_of_boxes(form, count):
    low, high = (count, count) if isinstance(count, int) else count
    boxes = sample_boxes(DRAWS // 4, (40, 40), count=count, area=(0.05, 0.3), generator=seeded(10))
    assert boxes.shape == (DRAWS // 4, high, 4)
    present = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    assert (boxes[~present] == 0).all()
    counts = present.sum(1)
    assert (present == (torch.arange(high) < counts[:, None])).all()  # the first ones
    check_frequencies(Counter(counts.tolist()), dict.fromkeys(range(low, high + 1), 1 / (high - low + 1)))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_p_gates_each_image_once(form, p):
    params = draw(p=p, area=(0.1, 0.5), boxes=3)
    skipped = (params.boxes == 0).all(-1).all(-1)
    assert (params.lam[skipped] == 1).all() and (params.lam[~skipped] < 1).all()
    mixed = int((~skipped).sum())
    if p in (0.0, 1.0):
        assert mixed == DRAWS * p
    else:
        assert stats.binomtest(mixed, DRAWS, p).pvalue > P
    if p == 0.5:  # each image by itself
        check_independent(skipped[:-1], skipped[1:])


def test_beta_is_uniform(form):
    params = draw()
    check_law(params.beta, stats.uniform)
    assert params.beta.min() >= 0 and params.beta.max() < 1 and params.beta.unique().numel() > DRAWS * 0.99


def test_draws_are_independent(form):
    """Nothing is used twice: between the quantities, the boxes of an image, and neighbouring images."""
    params = draw(DRAWS // 4, (32, 32), boxes=(1, 3), p=0.7, area=(0.05, 0.4))
    present = params.boxes[..., 2] > params.boxes[..., 0]
    skipped, counts = ~present.any(1), present.sum(1)
    area = (params.boxes[..., 2] - params.boxes[..., 0]) * (params.boxes[..., 3] - params.boxes[..., 1])
    beta, index = params.beta, params.index
    check_independent(skipped, beta, "p and beta")
    check_independent(skipped, index[:, 0], "p and partner")
    check_independent(counts[~skipped], beta[~skipped], "count and beta")
    check_independent(counts[~skipped], area[~skipped, 0], "count and area")
    check_independent(index[:, 0], beta, "partner and beta")
    check_independent(area[~skipped, 0], beta[~skipped], "area and beta")
    check_independent(area[~skipped, 0], index[~skipped, 0], "area and partner")
    for i, j in itertools.combinations(range(3), 2):
        check_independent(area[counts == 3, i], area[counts == 3, j], "areas of two boxes")
    check_independent(beta[:-1], beta[1:], "neighbours")
    check_independent(area[:-1, 0], area[1:, 0], "neighbours")


def test_places_are_independent(form):
    """Boxes of one size: what is left of them is their place."""
    params = draw(DRAWS // 4, (32, 32), boxes=3, area=(0.1, 0.1))
    places = params.boxes[..., :2].flatten(1)  # columns and rows of three boxes
    for i, j in itertools.combinations(range(6), 2):
        check_independent(places[:, i], places[:, j], (i, j))
    for i in range(6):
        check_independent(places[:, i], params.beta, (i, "beta"))
        check_independent(places[:-1, i], places[1:, i], (i, "neighbours"))


def test_partners_are_two_successors_on_a_uniform_cycle(form):
    """Four images have six cycles, all as likely."""
    cycles = Counter()
    for seed in range(3000):
        index = draw(4, seed=seed).index.tolist()
        assert [index[a][0] for a, _ in index] == [b for _, b in index]  # the second is the first's first
        cycle = [0]
        while len(cycle) < 4:
            cycle.append(index[cycle[-1]][0])
        assert sorted(cycle) == [0, 1, 2, 3]  # one cycle, not two
        cycles[tuple(cycle)] += 1
    check_frequencies(cycles, {(0, *rest): 1 / 6 for rest in itertools.permutations((1, 2, 3))})


@pytest.mark.parametrize("batch", [3, 5, 64, 129])
def test_partners_are_never_the_image_itself(form, batch):
    for seed in range(20):
        index = draw(batch, seed=seed).index
        own = torch.arange(batch)
        assert (index != own[:, None]).all() and (index[:, 0] != index[:, 1]).all()
        for column in index.T:
            assert column.sort().values.equal(own)  # each image is shown once as the first, once as the second


def test_partners_of_two_one_and_no_images(form):
    assert draw(2).index.tolist() == [[1, 1], [0, 0]]
    assert draw(1).index.tolist() == [[0, 0]]
    params = draw(0, boxes=3)
    assert [tuple(value.shape) for value in params.tensors().values()] == [(0, 3, 4), (0,), (0, 2), (0,)]


# ---------------------------------------------------------------- any settings


@st.composite
def chosen(draw_):
    low = draw_(st.integers(1, 4))
    area = draw_(st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: tuple(sorted(pair))))
    return DynamicMixCutSettings(
        (low, low + draw_(st.integers(0, 3))), draw_(st.sampled_from([0.0, 0.5, 1.0])), area, draw_(st.booleans())
    )


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 9), st.integers(1, 20), st.integers(1, 20), chosen(), st.integers(0, 2**31))
def test_records_of_any_settings(batch, height, width, made, seed):
    params = sample_dynamic_mixcut(batch, (height, width), made, seeded(seed))
    high = made.range[1]
    assert params.size == (height, width)
    kinds = {name: (value.dtype, tuple(value.shape)) for name, value in params.tensors().items()}
    assert kinds == {
        "boxes": (torch.int64, (batch, high, 4)),
        "lam": (torch.float32, (batch,)),
        "index": (torch.int64, (batch, 2)),
        "beta": (torch.float32, (batch,)),
    }
    x0, y0, x1, y1 = params.boxes.unbind(-1)
    assert ((x0 >= 0) & (x0 <= x1) & (x1 <= width) & (y0 >= 0) & (y0 <= y1) & (y1 <= height)).all()
    for i in range(batch):
        covered = reference.count_union(params.boxes[i], height, width)
        assert float(params.lam[i]) == pytest.approx(1 - covered / (height * width), abs=1e-6)
    again = sample_dynamic_mixcut(batch, (height, width), made, seeded(seed))
    assert all(value.equal(again.tensors()[name]) for name, value in params.tensors().items())


@pytest.mark.skipif(mixaug_ext.library() is None, reason="no compiled library")
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 40), st.integers(1, 70), st.integers(1, 300), chosen(), st.integers(0, 2**31))
def test_compiled_sampler_draws_the_same(batch, height, width, made, seed):
    compiled = sample_dynamic_mixcut(batch, (height, width), made, seeded(seed)).tensors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixaug_ext, "library", lambda: None)
        plain = sample_dynamic_mixcut(batch, (height, width), made, seeded(seed)).tensors()
    for name, value in plain.items():
        assert value.dtype == compiled[name].dtype and value.equal(compiled[name]), name


@pytest.mark.skipif(mixaug_ext.library() is None, reason="no compiled library")
def test_compiled_sampler_is_the_one_in_use(monkeypatch):
    """Or the test above would compare a thing with itself."""
    from mixaug_ext import _mixcut

    def used(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(_mixcut, "sample", used)
    with pytest.raises(ZeroDivisionError):
        draw(3)
    assert draw(3, square=False).lam.shape == (3,)  # free aspects are drawn in PyTorch


@pytest.mark.parametrize("form_of", ["compiled", "PyTorch"])
def test_equal_uniforms_have_stable_partners(monkeypatch, form_of):
    """Ties, in large batches of float32 not rare, go by position: the same cycle from both forms."""
    if form_of == "PyTorch":
        monkeypatch.setattr(mixaug_ext, "library", lambda: None)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.5))
    assert draw(4).index.tolist() == [[1, 2], [2, 3], [3, 0], [0, 1]]


def test_a_count_range_at_the_end_of_the_uniforms(form, monkeypatch):
    """The largest float32 below 1 must not give one box more than there are, or a place outside."""
    last = float(np.nextafter(np.float32(1), np.float32(0)))
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, last))
    params = draw(2, (7, 1000), boxes=(1, 3), area=(0.1, 0.1), p=1.0)
    assert params.boxes.tolist() == [[[684, 5, 1000, 7]] * 3] * 2


def test_large_images_have_an_exact_union(form):
    """Inclusion and exclusion of two boxes, and counting of three, on more pixels than float32 holds."""
    for boxes in (2, 3):
        params = draw(3, size=(5000, 4000), boxes=boxes, area=(0.2, 0.4), seed=11)
        for i in range(3):
            shown = np.zeros((5000, 4000), bool)
            for x0, y0, x1, y1 in params.boxes[i].tolist():
                shown[y0:y1, x0:x1] = True
            expected = (5000 * 4000 - int(shown.sum())) / (5000 * 4000)
            assert float(params.lam[i]) == pytest.approx(expected, abs=1e-7)


# ---------------------------------------------------------------- generators and devices


def test_the_default_generator_and_a_given_one():
    torch.manual_seed(4)
    one = sample_boxes(3, (9, 9))
    torch.manual_seed(4)
    assert sample_boxes(3, (9, 9)).equal(one) and not sample_boxes(3, (9, 9)).equal(one)
    generator = seeded(4)
    given_one = sample_boxes(3, (9, 9), generator=generator)
    assert given_one.equal(one)
    assert not sample_boxes(3, (9, 9), generator=generator).equal(one)  # and it moved on


@pytest.mark.parametrize("device", CPU_AND_GPU)
def test_device_of_the_record(device):
    params = sample_dynamic_mixcut(4, (9, 9), DynamicMixCutSettings(), device=device)
    assert {value.device.type for value in params.tensors().values()} == {device}
    assert sample_boxes(4, (9, 9), device=device).device.type == device
    assert sample_boxes(4, (9, 9), generator=seeded(), device=device).device.type == "cpu"  # the generator's counts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("area", [None, (0.1, 0.4)])
def test_gpu_derives_the_same_from_the_same_uniforms(monkeypatch, square, area):
    """The arithmetic on the GPU has the CPU's bits."""
    uniforms = torch.rand(500, 4 + 4 * 4, generator=seeded())
    made = DynamicMixCutSettings((1, 4), 0.7, area, square)
    uniforms = uniforms[:, : 4 + 4 * made.per_box].contiguous()
    monkeypatch.setattr(torch, "rand", lambda *_, device, **__: uniforms.to(device))
    cpu = sample_dynamic_mixcut(500, (33, 47), made, device="cpu").tensors()
    gpu = sample_dynamic_mixcut(500, (33, 47), made, device="cuda").tensors()
    for name, value in gpu.items():
        assert value.is_cuda and value.cpu().equal(cpu[name]), name


def test_record_describes_itself():
    params = DynamicMixCutParams(
        (10, 10),
        torch.tensor([[[3, 2, 7, 5], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]]),
        torch.tensor([0.88, 1.0]),
        torch.tensor([[1, 1], [0, 0]]),
        torch.tensor([0.25, 0.5]),
    )
    assert params.describe(0) == ["lam 0.88, beta 0.25 of image 1, 0.75 of image 1", "box 3x4 at (3, 2)"]
    assert params.describe(1) == ["lam 1.00, beta 0.50 of image 0, 0.50 of image 0"]
    moved = params.to("meta")
    assert {value.device.type for value in moved.tensors().values()} == {"meta"} and moved.size == params.size
