"""What IPMix draws, over 20,000 images with fixed seeds, against the laws of docs/methods/ipmix.md; fails at p < 1e-4.

Seeds are fixed, so these tests cannot fail by chance: a failure is a change of the law (or of torch's generator).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from reference import hash_uniform, pil_ipmix, to_pil
from scipy import stats
from torch import Tensor

from mixaug.ops import replay_ipmix
from mixaug.ops.ipmix_record import DISJOINT, IMAGE_OPERATIONS, MIXING_OPERATIONS, IPMixParams
from mixaug.ops.mixing import counter_hash
from mixaug.transforms.ipmix import LEVELS, LOWEST, IPMixSettings, sample_ipmix

DRAWS = 20_000
P = 1e-4
SIZE = (33, 47)
SIDES = (4, 8, 16)
DEFAULT = IPMixSettings(3, 3, 3.0, 3.0, SIDES, 0.5, "chain", LEVELS, False)
PICTURES, SIDE = 37, 55


def draw(count: int = DRAWS, *, seed: int = 0, views: int = 1, **changes: object) -> IPMixParams:
    return sample_ipmix(
        count, SIZE, dataclasses.replace(DEFAULT, **changes), views=views, pictures=PICTURES, side=SIDE,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


@pytest.fixture(scope="module")
def params() -> IPMixParams:
    return draw()


def p_level(params: IPMixParams) -> Tensor:
    """Which steps (done or not) mix with a picture."""
    return params.op >= len(IMAGE_OPERATIONS)


def done(params: IPMixParams) -> Tensor:
    """Which steps are carried out."""
    return torch.arange(params.op.shape[2]) < params.depth[..., None]


def check_counts(values: Tensor | np.ndarray, expected: dict[int, float]) -> None:
    """Chi-square of the counts of integers against their probabilities; other integers must not occur."""
    found, counts = np.unique(np.asarray(values).ravel(), return_counts=True)
    assert set(found.tolist()) <= set(expected), sorted(set(found.tolist()) - set(expected))
    observed = dict(zip(found.tolist(), counts.tolist(), strict=True))
    total = counts.sum()
    assert total > 1000
    got = [observed.get(value, 0) for value in expected]
    p = stats.chisquare(got, [total * share for share in expected.values()]).pvalue
    assert p > P, f"p = {p:.1e}, counts {observed}"


def check_uniform_integers(values: Tensor | np.ndarray, low: int, high: int) -> None:
    """Uniform on low..high, both included."""
    n = high - low + 1
    check_counts(values, dict.fromkeys(range(low, high + 1), 1 / n))


def check_law(values: Tensor, law: stats.rv_continuous) -> None:
    p = stats.kstest(values.double().flatten().numpy(), law.cdf).pvalue
    assert p > P, f"p = {p:.1e}, mean {values.double().mean():.4f}, expected {law.mean():.4f}"


def check_share(values: Tensor, share: float) -> None:
    p = stats.binomtest(int(values.sum()), values.numel(), share).pvalue
    assert p > P, f"p = {p:.1e}, share {values.double().mean():.4f}, expected {share}"


def bins(values: Tensor, count: int = 5) -> np.ndarray:
    """Ranks of values in equal shares, to test independence."""
    array = values.double().flatten().numpy()
    edges = np.unique(np.quantile(array, np.linspace(0, 1, count + 1)[1:-1]))
    return np.searchsorted(edges, array, side="right")


def check_independent(first: np.ndarray, second: np.ndarray, what: object = "") -> None:
    table = stats.contingency.crosstab(first, second).count
    p = stats.chi2_contingency(table).pvalue
    assert p > P, f"{what}: p = {p:.1e}"


# ------------------------------------------------------------------ chains


@pytest.mark.parametrize("t", [1, 2, 3, 6])
def test_depth_is_uniform_from_0_to_t(t: int) -> None:
    depth = draw(t=t).depth
    for chain in range(3):
        check_uniform_integers(depth[:, chain], 0, t)


def test_depths_of_the_chains_are_independent(params: IPMixParams) -> None:
    joint = params.depth @ torch.tensor([16, 4, 1])
    check_uniform_integers(joint, 0, 63)


def test_each_chain_is_image_or_p_level_with_probability_one_half(params: IPMixParams) -> None:
    kind = p_level(params)
    assert (kind == kind[..., :1]).all()
    check_uniform_integers(kind[..., 0].long() @ torch.tensor([4, 2, 1]), 0, 7)
    check_independent(kind[:, 0, 0].numpy(), params.depth[:, 0].numpy())


def test_linear_draws_the_kind_for_each_step() -> None:
    params = draw(structure="linear")
    assert params.depth.shape == (DRAWS, 1)
    assert (params.weight == 1).all()
    check_uniform_integers(p_level(params)[:, 0].long() @ torch.tensor([4, 2, 1]), 0, 7)
    check_uniform_integers(params.depth, 0, 3)


def test_mixed_input_draws_as_chain_does() -> None:
    chain, mixed = draw(200), draw(200, structure="mixed_input")
    assert mixed.mixed_input
    assert not chain.mixed_input
    for name, tensor in chain.tensors().items():
        assert torch.equal(tensor, getattr(mixed, name)), name


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_weights_are_dirichlet(k: int) -> None:
    weight = draw(k=k).weight
    assert torch.allclose(weight.sum(1), torch.ones(DRAWS), atol=1e-6)
    if k == 1:
        assert (weight == 1).all()
        return
    for i in range(k):
        check_law(weight[:, i], stats.beta(1, k - 1))
    # The share of what the first left is Beta(1, k-2) and independent of the first.
    if k > 2:
        rest = weight[:, 1] / (1 - weight[:, 0])
        check_law(rest, stats.beta(1, k - 2))
        check_independent(bins(rest), bins(weight[:, 0]))
    law = stats.dirichlet([1.0] * k)
    assert np.allclose(weight.var(0).numpy(), law.var(), rtol=0.05)


def test_m_is_uniform(params: IPMixParams) -> None:
    check_law(params.m, stats.uniform())


# ------------------------------------------------------------------ operations


@pytest.mark.parametrize("all_ops", [False, True])
def test_operations_are_equally_frequent(all_ops: bool) -> None:
    params = draw(all_ops=all_ops)
    mixes, carried_out = p_level(params), done(params)
    count = len(IMAGE_OPERATIONS) if all_ops else DISJOINT
    first_mix = len(IMAGE_OPERATIONS)
    check_uniform_integers(params.op[carried_out & ~mixes], 0, count - 1)
    check_uniform_integers(params.op[carried_out & mixes], first_mix, first_mix + len(MIXING_OPERATIONS) - 1)
    # As many steps of each kind as a uniform depth and a fair coin give: 3 chains of 1.5 steps, half of each kind.
    # Standard deviation of an image's count of P-level steps: sqrt(3 (E[d^2]/2 - (E[d]/2)^2)) = 1.89.
    mean = (carried_out & mixes).sum((1, 2)).double().mean().item()
    assert abs(mean - 2.25) < 4 * 1.89 / DRAWS**0.5


def test_strength_and_direction(params: IPMixParams) -> None:
    assert params.level.min() >= LOWEST
    assert params.level.max() <= 3.0
    check_law(params.level, stats.uniform(LOWEST, 3.0 - LOWEST))
    assert set(params.sign.unique().tolist()) == {-1, 1}
    check_share(params.sign == 1, 0.5)


def test_lowest_severity() -> None:
    assert torch.allclose(draw(50, severity=LOWEST).level, torch.tensor(LOWEST))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_self_mix_share(share: float) -> None:
    params = draw(self_mix=share)
    mixes = p_level(params)
    assert (params.source[~mixes] == -1).all()
    own = params.source[mixes] >= 0
    if share in (0.0, 1.0):
        assert (own == bool(share)).all()
    else:
        check_share(own, share)
    if share:
        check_uniform_integers(params.source[params.source >= 0], 0, DISJOINT - 1)


@pytest.mark.parametrize("beta", [1.0, 3.0, 4.0])
def test_exponents(beta: float) -> None:
    params = draw(beta=beta)
    a, b = params.a.flatten(), params.b.flatten()
    inverse = torch.signbit(b)
    check_share(inverse, 0.5)
    check_law(a[~inverse], stats.beta(beta, 1))
    check_law(b[~inverse], stats.beta(1, beta))
    check_law(a[inverse] - 1, stats.beta(1, beta))
    check_law(-b[inverse], stats.beta(1, beta))
    for branch in (inverse, ~inverse):
        check_independent(bins(a[branch]), bins(b[branch]))


def test_keep_rate_is_uniform(params: IPMixParams) -> None:
    assert params.keep.max() < 1
    check_law(params.keep, stats.uniform())


# ------------------------------------------------------------------ patches


def test_height_and_width_of_patches(params: IPMixParams) -> None:
    """The exact joint law: a side from the sizes and the whole image; then a square, or two draws from 2..side."""
    law: dict[int, float] = {}

    def add(height: int, width: int, share: float) -> None:
        law[100 * height + width] = law.get(100 * height + width, 0.0) + share

    add(*SIZE, 1 / 4)
    for side in SIDES:
        add(side, side, 1 / 8)
        for height, width in itertools.product(range(2, side + 1), repeat=2):
            add(height, width, 1 / 8 / (side - 1) ** 2)
    x0, y0, x1, y1 = params.box[p_level(params)].unbind(-1)
    check_counts(100 * (y1 - y0) + (x1 - x0), law)


def test_place_of_patches_is_uniform(params: IPMixParams) -> None:
    box = params.box.flatten(0, 2)
    x0, y0, x1, y1 = box.unbind(-1)
    height, width = y1 - y0, x1 - x0
    assert (box >= 0).all()
    assert (x1 <= SIZE[1]).all()
    assert (y1 <= SIZE[0]).all()
    for edge in (2, 3, 4, 8, 16):
        check_uniform_integers(y0[height == edge], 0, SIZE[0] - edge)
        check_uniform_integers(x0[width == edge], 0, SIZE[1] - edge)
    large = (height == 16) & (width == 16)
    check_uniform_integers(y0[large] * 32 + x0[large], 0, 18 * 32 - 1)


@pytest.mark.parametrize(
    ("levels", "whole", "mixes"),
    [
        (("image",), None, 0.0), (("patch",), 0.0, 1.0), (("pixel",), 1.0, 1.0), (("patch", "pixel"), 0.25, 1.0),
        (("image", "patch"), 0.0, 0.5), (("image", "pixel"), 1.0, 0.5), (LEVELS, 0.25, 0.5),
    ],
)  # fmt: skip
def test_levels_switch_components(levels: tuple[str, ...], whole: float | None, mixes: float) -> None:
    params = draw(levels=levels)
    kind = p_level(params)
    if mixes == 0.5:
        check_share(kind[:, 0, 0], 0.5)
    else:
        assert (kind == bool(mixes)).all()
    if whole is None:
        return
    x0, y0, x1, y1 = params.box[kind].unbind(-1)
    full = (y1 - y0 == SIZE[0]) & (x1 - x0 == SIZE[1])
    if whole == 0.25:
        check_share(full, whole)
    else:
        assert (full == bool(whole)).all()


def test_no_patch_fits() -> None:
    settings = dataclasses.replace(DEFAULT, levels=("patch",), patch_sizes=())
    with pytest.raises(ValueError, match=r"patch size smaller than the image, got an image of 3x3"):
        sample_ipmix(1, (3, 3), settings, pictures=1, side=4)


# ------------------------------------------------------------------ pictures and masks


def test_pictures_and_crops(params: IPMixParams) -> None:
    check_uniform_integers(params.picture, 0, PICTURES - 1)
    check_uniform_integers(params.top, 0, SIDE - SIZE[0])
    check_uniform_integers(params.left, 0, SIDE - SIZE[1])
    check_independent(params.picture.numpy(), bins(params.top))
    check_independent(params.top.numpy(), params.left.numpy())


def test_seeds_use_all_64_bits_and_never_repeat(params: IPMixParams) -> None:
    seed = params.seed.flatten()
    assert seed.unique().numel() == seed.numel()
    for bit in range(64):
        check_share((seed >> bit) & 1, 0.5)


def test_hash_is_uniform_and_without_pattern() -> None:
    """The mask hash: uniform over pixels and seeds, no correlation of neighbours or of seeds.

    Seeds of records are 64 random bits; counted-up ones are harder on a hash, so the upper word counts up here too.
    """
    pixel = torch.arange(128 * 128)
    for seeds in (torch.arange(60) << 32, draw(7).seed.flatten()):
        value = (counter_hash(pixel, seeds[:, None]) >> 8).double() / 2.0**24
        assert np.array_equal(value[3].numpy(), hash_uniform(pixel.numpy(), int(seeds[3])))
        check_law(value, stats.uniform())
        picture = value.view(-1, 128, 128)
        for near, far in (
            (picture[:, :, 1:], picture[:, :, :-1]),
            (picture[:, 1:], picture[:, :-1]),
            (picture[1:], picture[:-1]),
        ):
            check_independent(bins(near, 8), bins(far, 8))
        correlation = np.corrcoef(value.numpy())
        off_diagonal = correlation[~np.eye(len(seeds), dtype=bool)]
        assert np.abs(off_diagonal).max() < 6 / 128  # six standard deviations of the correlation of noise


# ------------------------------------------------------------------ independence


def test_quantities_of_a_step_are_independent(params: IPMixParams) -> None:
    """Every pair of what a mixing step draws: a uniform used twice would show here."""
    mixes = p_level(params)
    x0, y0, x1, y1 = params.box[mixes].unbind(-1)
    patch = (x1 - x0) * (y1 - y0)
    size = 50 * (y1 - y0) + (x1 - x0)
    inverse = torch.signbit(params.b[mixes])
    columns = {
        "operator": params.op[mixes].numpy(),
        "level": bins(params.level[mixes]),
        "sign": params.sign[mixes].numpy(),
        "area": bins(patch, 4),
        "branch": inverse.numpy(),
        "a in its branch": bins(torch.where(inverse, 2 - params.a[mixes], params.a[mixes])),
        "b in its branch": bins(params.b[mixes].abs()),
        "keep": bins(params.keep[mixes]),
        "own": (params.source[mixes] >= 0).numpy(),
        "seed": bins(params.seed[mixes] >> 12),
    }
    for (name, first), (other, second) in itertools.combinations(columns.items(), 2):
        check_independent(first, second, (name, other))
    # Place against everything else, and x against y, among patches of one size (places depend on the size).
    small = size == 50 * 4 + 4
    place = {"x": x0[small].numpy(), "y": y0[small].numpy()}
    check_independent(place["x"], place["y"], "x and y")
    for (name, first), (other, second) in itertools.product(place.items(), columns.items()):
        if other != "area":
            check_independent(first, second[small.numpy()], (name, other))


def test_quantities_of_an_image_are_independent(params: IPMixParams) -> None:
    columns = {
        "m": bins(params.m),
        "first weight": bins(params.weight[:, 0]),
        "first depth": params.depth[:, 0].numpy(),
        "last depth": params.depth[:, 2].numpy(),
        "first kind": p_level(params)[:, 0, 0].numpy(),
        "last kind": p_level(params)[:, 2, 0].numpy(),
        "first level": bins(params.level[:, 0, 0]),
        "second level": bins(params.level[:, 0, 1]),
        "level of the second chain": bins(params.level[:, 1, 0]),
        "picture": params.picture.numpy() % 6,
        "top": params.top.numpy() % 5,
        "left": params.left.numpy(),
    }
    for (name, first), (other, second) in itertools.combinations(columns.items(), 2):
        if (name, other) == ("picture", "top"):
            continue  # tested exactly above
        check_independent(first, second, (name, other))


def paired(params: IPMixParams, first: slice, second: slice) -> None:
    for name in ("m", "level", "keep", "a", "weight"):
        values = getattr(params, name).reshape(len(params.m), -1)[:, 0]
        check_independent(bins(values[first]), bins(values[second]), name)
    for name in ("depth", "op", "sign", "picture"):
        values = getattr(params, name).reshape(len(params.m), -1)[:, 0].numpy()
        check_independent(values[first], values[second], name)
    assert not torch.equal(params.seed[first], params.seed[second])


def test_images_of_a_batch_are_independent(params: IPMixParams) -> None:
    paired(params, slice(None, -1), slice(1, None))
    assert params.seed.unique().numel() == params.seed.numel()


def test_dependence_is_seen(params: IPMixParams) -> None:
    """The test behind the others fails where it should: equal draws, and draws of which a tenth are equal."""
    first = bins(params.m)
    some = np.where(np.arange(len(first)) % 10 == 0, first, np.roll(first, 1))
    for second in (first, some):
        with pytest.raises(AssertionError):
            check_independent(first, second)


def test_views_are_independent() -> None:
    params = draw(DRAWS, views=2)
    assert params.m.shape == (2 * DRAWS,)
    paired(params, slice(None, DRAWS), slice(DRAWS, None))


def test_batches_are_independent_and_seeds_repeat() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (
        sample_ipmix(DRAWS, SIZE, DEFAULT, pictures=PICTURES, side=SIDE, generator=generator) for _ in range(2)
    )
    check_independent(bins(first.m), bins(second.m))
    check_independent(first.op[:, 0, 0].numpy(), second.op[:, 0, 0].numpy())
    again = draw(seed=3)
    for name, tensor in again.tensors().items():
        assert torch.equal(tensor, getattr(first, name)), name
    torch.manual_seed(5)
    one = sample_ipmix(8, SIZE, DEFAULT, pictures=PICTURES, side=SIDE)
    torch.manual_seed(5)
    two = sample_ipmix(8, SIZE, DEFAULT, pictures=PICTURES, side=SIDE)
    assert torch.equal(one.seed, two.seed)
    assert torch.equal(one.m, two.m)


# ------------------------------------------------------------------ the whole, against an independent pipeline


@pytest.mark.parametrize("self_mix", [0.0, 0.5])
def test_results_are_distributed_as_the_pil_pipelines(self_mix: float) -> None:
    """The same image 5,000 times through ours and through the PIL pipeline with its own random numbers: the change of
    the image, its brightness and single pixels follow one law."""
    count, size = 5000, (32, 32)
    generator = torch.Generator().manual_seed(1)
    y, x = torch.linspace(0, 1, 32)[:, None], torch.linspace(0, 1, 32)
    image = torch.stack([160 * x + 60 * y, 255 * (x - y).abs(), 90 + 80 * torch.sin(9 * x * y)]).to(torch.uint8)
    pictures = torch.randint(0, 256, (8, 3, 9, 9), generator=generator, dtype=torch.uint8)
    pictures = torch.nn.functional.interpolate(pictures.float(), size=(36, 36), mode="bilinear").to(torch.uint8)
    settings = IPMixSettings(3, 3, 3.0, 3.0, SIDES, self_mix, "chain", LEVELS, False)
    params = sample_ipmix(count, size, settings, pictures=8, side=36, generator=generator)
    ours = replay_ipmix(image.expand(count, -1, -1, -1), params, pictures).float().numpy()
    pipeline = pil_ipmix.LeanIPMix(
        [to_pil(picture.numpy()) for picture in pictures], self_mix=self_mix, rng=np.random.default_rng(1)
    )
    picture = to_pil(image.numpy())
    theirs = np.stack([np.asarray(pipeline(picture)) for _ in range(count)]).transpose(0, 3, 1, 2).astype(np.float32)
    start = image.float().numpy()
    for name, figure in {
        "change": lambda z: np.abs(z - start).mean((1, 2, 3)),
        "brightness": lambda z: z.mean((1, 2, 3)),
        "contrast": lambda z: z.std((1, 2, 3)),
        "corner": lambda z: z[:, 0, 1, 2],
        "middle": lambda z: z[:, 1, 15, 17],
        "channels": lambda z: (z[:, 0] - z[:, 2]).mean((1, 2)),
    }.items():
        p = stats.ks_2samp(figure(ours), figure(theirs)).pvalue
        assert p > P, f"{name}: p = {p:.1e}"
