"""Masks against plain loops over Eq. 5 to 7; what they keep under permutation, autocast, compilation and size."""

from __future__ import annotations

import pytest
import reference_adautomix
import torch
from adautomix_parts import seeded
from torch._subclasses.fake_tensor import FakeTensorMode

from mixaug.nn import MixGenerator, mix_generator


def generator_of(channels: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32) -> MixGenerator:
    """With weights and biases so large that the masks are far from even."""
    generator = MixGenerator(channels)
    drawn = seeded(seed)
    for parameter in generator.parameters():
        parameter.data = 2 * torch.randn(parameter.shape, generator=drawn)
    return generator.to(dtype)


def sources(b: int, n: int, channels: int = 5, size: tuple[int, int] = (3, 4), seed: int = 1):
    """Features of each mixture and ratios, which are all different."""
    drawn = seeded(seed)
    ratios = torch.rand(b, n, generator=drawn) + 0.1
    return torch.randn(b, n, channels, *size, generator=drawn), ratios / ratios.sum(1, keepdim=True)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize(("grid", "size"), [((3, 4), (12, 16)), ((2, 5), (7, 13)), ((4, 3), (3, 2))])
def test_masks_equal_plain_loops(n: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    generator, (features, ratios) = generator_of(), sources(2, n, size=grid)
    out = generator(features, ratios, size)
    expected = reference_adautomix.masks(
        generator.project.weight.detach(), generator.project.bias.detach(), features, ratios, size
    )
    assert out.dtype == torch.float32 and out.shape == (2, n, *size)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    assert expected.std(1).mean() > 0.1  # not even ones, which would agree with much


@pytest.mark.parametrize("n", [2, 3, 5])
def test_with_index_each_image_is_projected_once(n: int) -> None:
    generator, drawn = generator_of(), seeded(3)
    features = torch.randn(6, 5, 3, 4, generator=drawn)
    index = torch.stack([torch.randperm(6, generator=drawn)[:n] for _ in range(4)])
    ratios = sources(4, n)[1]
    out = generator(features, ratios, (9, 11), index)
    torch.testing.assert_close(out, generator(features[index], ratios, (9, 11)), rtol=0, atol=1e-5)
    expected = reference_adautomix.masks(
        generator.project.weight.detach(), generator.project.bias.detach(), features[index], ratios, (9, 11)
    )
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_permuted_sources_permute_the_masks_and_the_masks_sum_to_1(n: int) -> None:
    generator, (features, ratios) = generator_of(), sources(3, n)
    order = torch.randperm(n, generator=seeded(n)).roll(1) if n > 2 else torch.tensor([1, 0])
    out = generator(features, ratios, (10, 15))
    permuted = generator(features[:, order], ratios[:, order], (10, 15))
    torch.testing.assert_close(permuted, out[:, order], rtol=0, atol=1e-6)
    assert (permuted - out).abs().max() > 0.1
    torch.testing.assert_close(out.sum(1), torch.ones(3, 10, 15), rtol=0, atol=1e-6)
    assert out.min() >= 0


def test_the_ratio_of_an_image_moves_its_mask() -> None:
    generator, (features, ratios) = generator_of(), sources(1, 3)
    out = generator(features, ratios, (6, 8))
    assert (generator(features, ratios.roll(1, 1), (6, 8)) - out).abs().max() > 0.05


def test_the_same_weights_serve_for_every_number_of_images_and_size() -> None:
    generator = generator_of()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in before.items()} == {
        "project.weight": (5, 6, 1, 1),  # half of 5 channels is 2: two queries, two keys, one value
        "project.bias": (5,),
    }
    for n, grid, size in [(2, (1, 2), (2, 4)), (5, (7, 3), (28, 12)), (16, (2, 2), (8, 8))]:
        features, ratios = sources(1, n, size=grid)
        assert generator(features, ratios, size).shape == (1, n, *size)
    assert all(value.equal(before[name]) for name, value in generator.state_dict().items())


def test_gradients_are_those_of_the_plain_products() -> None:
    """gradcheck in double, of what is trained and of the ratios."""
    generator, (features, ratios) = generator_of(dtype=torch.float64), sources(2, 3, size=(2, 3))
    names, values = zip(*generator.named_parameters(), strict=True)

    def masks(ratios: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(generator, given, (features.double(), ratios, (4, 6)))

    out = masks(ratios.double(), *values)
    expected = reference_adautomix.masks(values[0].detach(), values[1].detach(), features, ratios, (4, 6))
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    inputs = [ratios.double().requires_grad_(), *values]
    assert torch.autograd.gradcheck(masks, inputs)


def test_float32_softmax_under_autocast() -> None:
    generator, (features, ratios) = generator_of(), sources(2, 3, size=(4, 4))
    exact = generator(features, ratios, (16, 16))
    seen = []
    softmax = torch.Tensor.softmax
    with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", lambda x, dim: seen.append(x.dtype) or softmax(x, dim))
        out = generator(features.bfloat16(), ratios, (16, 16))
    assert seen == [torch.float32] * 2 and out.dtype == torch.float32
    torch.testing.assert_close(out.sum(1), torch.ones(2, 16, 16), rtol=0, atol=1e-6)
    # bfloat16 has 8 bits: projections of about 10 are off by some 0.03, and the masks by as much.
    assert (out - exact).abs().mean() < 0.03
    (out * torch.arange(3).view(1, 3, 1, 1)).mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in generator.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in generator.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_a_classifier_in_another_dtype(dtype: torch.dtype) -> None:
    generator, (features, ratios) = generator_of(), sources(2, 3)
    features = features.to(dtype)
    out = generator(features, ratios, (6, 8))
    assert out.dtype == torch.float32 and out.equal(generator(features.float(), ratios, (6, 8)))


@pytest.mark.parametrize("d", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_paths_of_the_attention_agree(d: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = seeded(d)
    query, key, value = (torch.randn(3, c, 12, generator=drawn, dtype=dtype) for c in (d, d, 1))
    few = mix_generator._attend(query, key, value)
    monkeypatch.setattr(mix_generator, "_MANY_PLACES", 11)
    fused = []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *x: fused.append(1) or attention(*x)
    )
    many = mix_generator._attend(query, key, value)
    assert fused == [1] and few.shape == many.shape == (3, 12)
    torch.testing.assert_close(few, many)


def test_many_places_take_the_fused_attention_with_gradients() -> None:
    generator, (features, ratios) = generator_of(), sources(1, 2, size=(33, 32))
    assert 33 * 32 > mix_generator._MANY_PLACES >= 32 * 32
    generator(features, ratios, (33, 32)).square().sum().backward()
    found = [parameter.grad.clone() for parameter in generator.parameters()]
    generator.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mix_generator, "_MANY_PLACES", 33 * 32)
        generator(features, ratios, (33, 32)).square().sum().backward()
    for one, other in zip(found, generator.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("with_index", [False, True])
def test_compiled_as_one_graph(with_index: bool) -> None:
    torch.compiler.reset()
    generator, (features, ratios) = generator_of(), sources(2, 3)
    index = torch.tensor([[0, 2, 5], [4, 1, 3]]) if with_index else None
    given = features.flatten(0, 1) if with_index else features
    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    out, plain = compiled(given, ratios, (9, 7), index), generator(given, ratios, (9, 7), index)
    torch.testing.assert_close(out, plain)
    wanted = torch.autograd.grad(plain.square().sum(), list(generator.parameters()))
    found = torch.autograd.grad(out.square().sum(), list(generator.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fake_cuda")
def test_on_a_gpu_the_host_waits_for_nothing() -> None:
    """Fake CUDA tensors have no values: reading one raises, and so do operands on two devices."""
    with FakeTensorMode(), torch.device("cuda"):
        generator = MixGenerator(5)
        for places in (3, 40):
            features = torch.empty(6, 5, places, places)
            index = torch.zeros(4, 3, dtype=torch.long)
            out = generator(features, torch.empty(4, 3), (8, 8), index)
            assert out.device.type == "cuda" and out.shape == (4, 3, 8, 8)
        assert generator(torch.empty(2, 3, 5, 4, 4), torch.empty(2, 3), (8, 8)).device.type == "cuda"


def test_bad_input_says_which_argument_and_what_it_got() -> None:
    generator, (features, ratios) = generator_of(), sources(2, 3)
    index = torch.zeros(2, 3, dtype=torch.long)
    cases = [
        (lambda: MixGenerator(1), ValueError, "channels must be from 2 to 16384, got 1"),
        (lambda: MixGenerator(2.0), TypeError, "channels must be an int, got float"),
        (lambda: MixGenerator(True), TypeError, "channels must be an int, got bool"),
        (lambda: generator(features.long(), ratios, (4, 4)), TypeError, "features must be .*, got torch.int64"),
        (lambda: generator(features, [0.5], (4, 4)), TypeError, "ratios must be a floating tensor, got list"),
        (lambda: generator(features, ratios[:, :1], (4, 4)), ValueError, r"N at least 2, got \(2, 1\)"),
        (lambda: generator(features, ratios[0], (4, 4)), ValueError, r"shape \(B, N\) .*, got \(3,\)"),
        (lambda: generator(features[:1], ratios, (4, 4)), ValueError, r"\(2, 3, C, h, w\).*, got \(1, 3, 5, 3, 4\)"),
        (lambda: generator(features, ratios, (4, 4), index), ValueError, r"index of ratios' shape \(2, 3\), got"),
        (lambda: generator(features[0], ratios, (4, 4), index[:1]), ValueError, r"and \(1, 3\)"),
        (lambda: generator(features[:, :, :4], ratios, (4, 4)), ValueError, "must have 5 channels, got 4"),
        (lambda: generator(features[0, :, :4], ratios, (4, 4), index), ValueError, "must have 5 channels, got 4"),
        (lambda: generator(features[0], ratios, (4, 4), index.float()), TypeError, "index must be .*, got .*float32"),
        (lambda: generator(features[0], ratios, (4, 4), [[0]]), TypeError, "index must be .*, got list"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    assert "channels=5" in repr(generator)
