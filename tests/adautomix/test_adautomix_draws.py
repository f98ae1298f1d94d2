"""Draws of AdAutoMix: partners on a cycle, the law of the ratios; mixtures of images and labels against plain loops."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
import reference_adautomix
import torch
from adautomix_parts import CLASSES, batch, draw_of, mixer_of, net, seeded, soft

from mixaug.adautomix import MixDraw, MixLaw, mix_images, mix_targets, sample_mix
from mixaug.adautomix.mixing import plain_masks, share_gap, similarity


@pytest.mark.parametrize(("count", "n"), [(7, 2), (7, 3), (5, 5), (3, 5), (2, 3), (2, 2)])
def test_partners_are_the_successors_on_one_cycle(count: int, n: int) -> None:
    for seed in range(20):
        draw = sample_mix(count, MixLaw(n), seeded(seed))
        assert draw.index.shape == (count, min(n, count)) and draw.index.dtype == torch.int64
        rows = draw.index.tolist()
        assert [row[0] for row in rows] == list(range(count))
        assert all(len(set(row)) == len(row) for row in rows)
        after = {row[0]: row[1] for row in rows}
        here, walked = 0, set()
        for _ in range(count):
            walked.add(here)
            here = after[here]
        assert walked == set(range(count)) and here == 0
        assert all(after[one] == two for row in rows for one, two in itertools.pairwise(row))
        assert Counter(draw.index.flatten().tolist()) == dict.fromkeys(range(count), min(n, count))


def test_each_cycle_is_as_likely_as_any_other() -> None:
    drawn = seeded()
    found = Counter(tuple(sample_mix(4, MixLaw(2), drawn).index[:, 1].tolist()) for _ in range(1800))
    assert len(found) == 6  # (4 - 1)!
    assert all(abs(times - 300) < 80 for times in found.values())  # 5 standard deviations


def moments(ratios: torch.Tensor) -> list[float]:
    ratios = ratios.double()
    return [ratios.mean().item(), ratios.var().item(), (ratios < 0.1).double().mean().item()]


@pytest.mark.parametrize("concentration", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_ratios_follow_beta(n: int, concentration: float) -> None:
    ratios = sample_mix(30000, MixLaw(n, concentration, per_image=True), seeded(n)).ratios
    assert ratios.dtype == torch.float32 and ratios.shape == (30000, n)
    torch.testing.assert_close(ratios.sum(1), torch.ones(30000))
    assert ratios.min() >= 0 and ratios.max() <= 1
    torch.manual_seed(0)
    drawn = torch.distributions.Beta(concentration, concentration).sample((30000, n)).double().clamp_min(1e-12)
    if n == 2:
        drawn[:, 1] = 1 - drawn[:, 0]
        # of Beta(a, a): 1 / (4 (2 a + 1))
        assert ratios[:, 0].var().item() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.03)
    expected = drawn / drawn.sum(1, keepdim=True)
    for place in range(n):
        assert moments(ratios[:, place]) == pytest.approx(moments(expected[:, place]), abs=0.012)
    assert ratios.mean(0).tolist() == pytest.approx([1 / n] * n, abs=0.01)


@pytest.mark.parametrize("concentration", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_ratios_follow_dirichlet(n: int, concentration: float) -> None:
    ratios = sample_mix(30000, MixLaw(n, concentration, True, True), seeded(n)).ratios
    torch.testing.assert_close(ratios.sum(1), torch.ones(30000))
    variance = (1 / n) * (1 - 1 / n) / (n * concentration + 1)
    for place in range(n):
        assert ratios[:, place].mean().item() == pytest.approx(1 / n, abs=0.01)
        assert ratios[:, place].var().item() == pytest.approx(variance, rel=0.04)


def test_ratios_of_the_batch_or_of_each_image() -> None:
    one = sample_mix(6, MixLaw(3), seeded())
    assert one.ratios.equal(one.ratios[:1].expand(6, 3)) and one.ratios.is_contiguous()
    assert len(one.ratios[0].unique()) == 3
    many = sample_mix(6, MixLaw(3, per_image=True), seeded()).ratios
    assert len(many[:, 0].unique()) == 6
    two = [sample_mix(6, MixLaw(2), seeded(seed)).ratios[0].tolist() for seed in range(3)]
    assert all(sum(row) == pytest.approx(1) for row in two) and len({row[0] for row in two}) == 3


@pytest.mark.parametrize("dirichlet", [False, True])
def test_extreme_concentrations(dirichlet: bool) -> None:
    for concentration in (1e-3, 1e6):
        ratios = sample_mix(5000, MixLaw(3, concentration, True, dirichlet), seeded()).ratios
        assert ratios.isfinite().all() and (ratios.sum(1) - 1).abs().max() < 1e-5
    assert (ratios - 1 / 3).abs().max() < 0.01


@pytest.mark.parametrize("n", [2, 3])
def test_plain_rows_have_a_ratio_near_0_or_1(n: int) -> None:
    draw = sample_mix(4000, MixLaw(n, 0.7, per_image=True), seeded())
    expected = [any(r < 0.03 or r > 0.97 for r in row) for row in draw.ratios.double().tolist()]
    assert draw.plain.dtype == torch.bool and draw.plain.tolist() == expected
    assert 0.02 < draw.plain.float().mean() < 0.5
    whole = [sample_mix(3, MixLaw(n), seeded(seed)).plain for seed in range(60)]
    assert {len(set(plain.tolist())) for plain in whole} == {1} and 0 < sum(map(bool, (p[0] for p in whole))) < 30


def test_small_batches() -> None:
    none, one, two = (sample_mix(count, MixLaw(3), seeded()) for count in (0, 1, 2))
    assert none.index.shape == none.ratios.shape == (0, 1) and none.plain.shape == (0,)
    assert (one.index.tolist(), one.ratios.tolist(), one.plain.tolist()) == ([[0]], [[1.0]], [True])
    assert two.index.tolist() == [[0, 1], [1, 0]] and two.ratios.sum(1).allclose(torch.ones(2))
    # of two images, the law of two: Beta(1, 1) and not two draws divided by their sum
    first = torch.cat([sample_mix(2, MixLaw(3), seeded(seed)).ratios[:1, 0] for seed in range(3000)])
    assert first.var().item() == pytest.approx(1 / 12, rel=0.06)


def test_generators_reproduce_and_rows_are_the_first_of_the_cycle() -> None:
    law = MixLaw(3, per_image=True)
    one, again, other = (sample_mix(9, law, seeded(seed)) for seed in (4, 4, 5))
    assert all(value.equal(getattr(again, name)) for name, value in vars(one).items())
    assert not one.index.equal(other.index) and not one.ratios.equal(other.ratios)
    few = sample_mix(9, law, seeded(4), rows=4)
    assert few.index.equal(one.index[:4]) and few.ratios.shape == (4, 3) and few.plain.shape == (4,)
    torch.manual_seed(3)
    default = sample_mix(9, law)
    state = torch.get_rng_state()
    sample_mix(9, law, seeded(4))
    assert torch.get_rng_state().equal(state)  # a given generator alone is drawn from
    torch.manual_seed(3)
    assert sample_mix(9, law).ratios.equal(default.ratios)


def test_both_players_draw_anew_each_step_and_draws_replay() -> None:
    mixer, (images, labels) = mixer_of(net(), per_image=True), batch()
    given = mixer.sample(images)
    assert not given[0].index.equal(given[1].index) and not given[0].ratios.equal(given[1].ratios)
    outs = [mixer(images, labels) for _ in range(3)]
    assert not outs[0].draw.ratios.equal(outs[1].draw.ratios)
    mixer.eval()
    mixer.model.eval()
    one, again = mixer(images, labels, given), mixer(images, labels, given)
    assert one.draw is given[1] and one.mixed.equal(again.mixed) and one.masks.equal(again.masks)
    assert one.classifier_loss.equal(again.classifier_loss) and one.generator_loss.equal(again.generator_loss)
    same = mixer_of(net(), per_image=True)(images, labels)
    assert same.draw.index.equal(given[1].index) and same.draw.ratios.equal(given[1].ratios)
    shared = mixer_of(net(), shared_draws=True).sample(images)
    assert shared[0] is shared[1]


def test_a_draw_in_words_and_elsewhere() -> None:
    draw = draw_of([[0, 2], [1, 0]], [[0.25, 0.75], [0.5, 0.5]])
    assert draw.describe(0) == "0.25 of image 0, 0.75 of image 2"
    assert draw.to("meta").index.device.type == "meta" and draw.index.device.type == "cpu"
    with pytest.raises(dataclasses.FrozenInstanceError):
        draw.index = draw.index
    with pytest.raises(ValueError, match=r"shapes \(B, N\), \(B, N\) and \(B,\), got \(2, 2\), \(2, 3\) and \(2,\)"):
        MixDraw(draw.index, torch.rand(2, 3), draw.plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mixtures_of_images_equal_plain_loops(dtype: torch.dtype, layout: torch.memory_format) -> None:
    images = batch(5, size=(7, 9))[0].to(dtype).to(memory_format=layout)
    before = images.clone()
    index = torch.tensor([[0, 3, 1], [4, 0, 2], [2, 2, 2], [1, 4, 3]])
    masks = torch.rand(4, 3, 7, 9, generator=seeded()).softmax(1)
    out = mix_images(images, index, masks)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout) and images.equal(before)
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-6)
    expected = reference_adautomix.mixture(images, index, masks)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    ratios = torch.rand(4, 3, generator=seeded(1)).softmax(1)
    plain = mix_images(images, index, ratios[..., None, None])
    torch.testing.assert_close(
        plain.double(), reference_adautomix.mixture(images, index, ratios), rtol=0, atol=tolerance
    )
    one = mix_images(images, index[:, :1], torch.ones(4, 1, 7, 9))
    assert one.equal(images[index[:, 0]])
    with pytest.raises(ValueError, match="index must name at least one image"):
        mix_images(images, index[:, :0], masks[:, :0])


def test_plain_masks_in_some_rows() -> None:
    masks = torch.rand(3, 2, 4, 5, generator=seeded()).softmax(1)
    ratios = torch.tensor([[0.2, 0.8], [0.99, 0.01], [0.5, 0.5]])
    out = plain_masks(masks, ratios, torch.tensor([False, True, False]))
    assert out[[0, 2]].equal(masks[[0, 2]])
    assert out[1, 0].unique().tolist() == [ratios[1, 0].item()] and out[1, 1].unique().tolist() == [ratios[1, 1].item()]


def test_labels_of_mixtures_and_their_cross_entropy() -> None:
    index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    ratios = torch.tensor([[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]])
    labels = torch.tensor([0, 2, 0])
    out = mix_targets(labels, index, ratios, CLASSES)
    torch.testing.assert_close(out, torch.tensor([[0.7, 0.0, 0.3, 0.0], [0.75, 0.0, 0.25, 0.0]]))
    logits = torch.randn(2, CLASSES, generator=seeded(), dtype=torch.float64)
    for given in (labels, soft(labels), soft(labels).half()):
        targets = mix_targets(given, index, ratios, CLASSES)
        assert targets.dtype == torch.float32
        amce = -(targets * logits.log_softmax(1)).sum(1).mean().item()
        assert amce == pytest.approx(reference_adautomix.amce(logits, given, index, ratios), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_similarity_equals_plain_loops(dtype: torch.dtype) -> None:
    drawn = seeded()
    mixed, sources = (torch.randn(count, 6, generator=drawn).to(dtype) for count in (4, 5))
    index, ratios = torch.randint(0, 5, (4, 3), generator=drawn), torch.rand(4, 3, generator=drawn).softmax(1)
    out = similarity(mixed, sources, index, ratios)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = reference_adautomix.similarity(mixed.double(), sources.double(), index, ratios)
    assert out.item() == pytest.approx(expected, abs=1e-6)
    whole = torch.ones(4, 3) / 3
    assert similarity(3 * sources[:4], sources, torch.arange(4)[:, None].expand(4, 3), whole).item() == pytest.approx(
        1, abs=1e-5
    )


def test_the_share_gap_equals_plain_loops() -> None:
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(5, 3, 4, 7, generator=generator, dtype=torch.float64).softmax(1)
    ratios = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    ratios = ratios / ratios.sum(1, keepdim=True)
    expected = 0.0
    for row in range(5):
        for source in range(3):
            share = sum(masks[row, source].flatten().tolist()) / 28
            expected += max(abs(share - float(ratios[row, source])) - 0.1, 0.0) / 5
    assert expected > 0
    assert share_gap(masks, ratios).item() == pytest.approx(expected, abs=1e-12)
    assert share_gap(masks, masks.mean((2, 3)) + 0.09).item() == 0
