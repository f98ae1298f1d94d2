"""AdAutoMix over any classifier: architectures, dtypes, layouts, autocast, scaled losses, compilers, fake GPUs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
import torchvision
from adautomix_parts import Net, batch, clear, gradients, mixer_of, net, passes, seeded, state_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mixaug.adautomix import AdAutoMix, AdAutoMixOutput

tv = torchvision.models


def timm_model(name: str, **options: object) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=5, **options)


SWIN = functools.partial(tv.SwinTransformer, [4, 4], 8, [1, 1, 2, 1], [1, 1, 2, 2], [4, 4], num_classes=5)
DENSE = functools.partial(tv.DenseNet, 8, (2, 2, 2, 2), 16, num_classes=5)
VIT = functools.partial(tv.VisionTransformer, 32, 8, 4, 2, 32, 64, num_classes=5)
NEXT = functools.partial(timm_model, "convnext_atto", depths=(1, 1, 2, 1), dims=(8, 8, 16, 16))
TIMM_VIT = functools.partial(
    timm_model, "vit_base_patch14_reg4_dinov2", img_size=56, depth=4, embed_dim=24, num_heads=3
)
#: How it is made, size of the images, the layer that is chosen, its map.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], str, tuple[int, ...]]] = {
    "resnet18": (lambda: tv.resnet18(num_classes=5), (48, 64), "layer3", (256, 3, 4)),
    "mobilenet": (lambda: tv.mobilenet_v2(num_classes=5, width_mult=0.25), (64, 64), "features.13", (24, 4, 4)),
    "densenet": (DENSE, (64, 96), "features.denseblock3", (32, 4, 6)),
    "swin": (SWIN, (64, 64), "features.5", (32, 4, 4)),
    "vit": (VIT, (32, 32), "encoder.layers.encoder_layer_2", (32, 4, 4)),
    "timm convnext": (NEXT, (64, 64), "stages.2", (16, 4, 4)),
    "timm vit": (TIMM_VIT, (56, 56), "blocks.2", (24, 4, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_step_over_any_architecture(name: str) -> None:
    make, size, layer, shape = MODELS[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), make())
    images, labels = torch.rand(4, 3, *size, generator=seeded()), torch.tensor([0, 4, 2, 1])
    for parameter in model.parameters():
        if not parameter.any():  # behind a head of zeros there is no gradient
            nn.init.normal_(parameter, std=0.1)
    mixer = AdAutoMix(model, 5, generator=seeded(), example_input=images[:2])
    assert mixer.feature_layer == f"1.{layer}" and mixer.generator.channels == shape[0]
    assert mixer.teacher.features(images).shape == (4, *shape)
    features, logits = mixer.teacher.look(images)
    assert features.equal(mixer.teacher.features(images)) and logits.equal(mixer.teacher(images))
    out = mixer(images, labels)
    assert out.masks.shape == (4, 3, *size) and out.mixed.shape == images.shape
    assert (out.masks.sum(1) - 1).abs().max() < 1e-5
    out.classifier_loss.backward()
    out.generator_loss.backward()
    assert all(value is not None and value.isfinite().all() for value in gradients(model))
    assert all(value.abs().max() > 0 for value in gradients(mixer.generator))
    mixer.update_teacher(0, 10)


def one_step(mixer: AdAutoMix, images: Tensor, labels: Tensor, scale: float = 1.0) -> AdAutoMixOutput:
    out = mixer(images, labels)
    (out.classifier_loss * scale).backward()
    (out.generator_loss * scale).backward()
    return out


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_autocast_reaches_every_parameter(shared: bool, inside: bool) -> None:
    """Before torch 2.10 weights that were cast without gradients stay in autocast's cache, and train nothing."""
    mixer, (images, labels) = mixer_of(net(), shared_draws=shared), batch()
    exact = one_step(mixer, images, labels)
    wanted = gradients(mixer.model), gradients(mixer.generator)
    other = mixer_of(net(), shared_draws=shared)
    with torch.autocast("cpu", torch.bfloat16):
        assert other.model(images[:2]).dtype == torch.bfloat16
        out = other(images, labels)
        if inside:
            out.classifier_loss.backward()
            out.generator_loss.backward()
    if not inside:
        out.generator_loss.backward()
        out.classifier_loss.backward()
    assert out.classifier_loss.dtype == out.generator_loss.dtype == out.masks.dtype == out.mixed.dtype == torch.float32
    assert (out.masks - exact.masks).abs().mean() < 0.02
    for found, expected in zip((gradients(other.model), gradients(other.generator)), wanted, strict=True):
        assert all(value is not None and value.dtype == torch.float32 for value in found)
        together = [torch.cat([value.flatten() for value in values]) for values in (found, expected)]
        assert torch.cosine_similarity(*together, dim=0) > 0.9
    assert out.generator_loss.item() == pytest.approx(exact.generator_loss.item(), abs=0.1)


@pytest.mark.parametrize("shared", [False, True])
def test_losses_under_a_scaler(shared: bool) -> None:
    """torch's own scaler, on the CPU: one for both players, unscaled before the steps."""
    mixer, (images, labels) = mixer_of(net(), shared_draws=shared), batch()
    plain = mixer_of(net(), shared_draws=shared)
    one_step(plain, images, labels)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (mixer.model, mixer.generator)]
    out = mixer(images, labels)
    scaler.scale(out.classifier_loss).backward()
    scaler.scale(out.generator_loss).backward()
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    for one, other in ((mixer.model, plain.model), (mixer.generator, plain.generator)):
        for found, expected in zip(gradients(one), gradients(other), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    before = state_of(mixer.generator)["project.weight"], mixer.model.head.weight.clone()
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    assert not mixer.generator.project.weight.equal(before[0]) and not mixer.model.head.weight.equal(before[1])


def test_channels_last_throughout() -> None:
    layout = torch.channels_last
    model = net().to(memory_format=layout)
    mixer, (images, labels) = mixer_of(model), batch()
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].is_contiguous(memory_format=layout)))
    out = one_step(mixer, images.to(memory_format=layout), labels)
    assert seen == [True] * 4 and out.mixed.is_contiguous(memory_format=layout)
    plain = mixer_of(net())
    expected = one_step(plain, images, labels)
    torch.testing.assert_close(out.masks, expected.masks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.generator_loss, expected.generator_loss, rtol=1e-4, atol=1e-4)
    for found, wanted in zip(gradients(model), gradients(plain.model), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shared", [False, True])
def test_a_classifier_in_another_dtype(dtype: torch.dtype, shared: bool) -> None:
    mixer, (images, labels) = mixer_of(net().to(dtype), shared_draws=shared), batch()
    exact = mixer_of(net(), shared_draws=shared)(images, labels)
    out = one_step(mixer, images.to(dtype), labels)
    assert out.mixed.dtype == dtype and out.masks.dtype == torch.float32
    assert (out.masks - exact.masks).abs().max() < (1e-4 if dtype == torch.float64 else 0.2)
    assert all(value.dtype == dtype for value in gradients(mixer.model))
    assert all(value.dtype == torch.float32 and value.abs().max() > 0 for value in gradients(mixer.generator))


class InPlace(Net):
    """Writes to the output of the layer that the features are of."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage3(self.stage2(self.stage1(x)).mul_(-3)).mean((2, 3)))


def test_features_are_those_of_the_layer_also_where_the_next_writes_in_place() -> None:
    mixer, (images, _) = mixer_of(InPlace(), feature_layer="stage2"), batch()
    teacher = mixer.teacher.model
    with torch.no_grad():
        expected = teacher.stage2(teacher.stage1(images))
    assert mixer.teacher.look(images)[0].equal(expected) and mixer.teacher.features(images).equal(expected)
    images.requires_grad_()  # also then, they have no graph
    assert not any(value.requires_grad for value in (*mixer.teacher.look(images), mixer.teacher.features(images)))


class Keeps(Net):
    """Keeps a result of its last pass, which copy.deepcopy refuses."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.stage2(self.stage1(x))
        return self.head(self.stage3(self.last).mean((2, 3)))


class Tied(Net):
    """A module with two names, and a weight and a buffer of two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.stage3[:2]
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.other.weight = self.stage2[0].weight = nn.Parameter(self.other.weight[:, :6].clone())
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean = self.stage3[1].running_mean

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.stage3(self.stage2(self.stage1(x))))
        return self.head(self.norm(self.other(x[:, :6])).mean((2, 3)))


@pytest.mark.parametrize("kind", [Keeps, Tied])
def test_models_that_are_hard_to_copy(kind: type[Net]) -> None:
    model, (images, labels) = kind(), batch()
    model(images)
    mixer = mixer_of(model)
    before, names = mixer.teacher(images), [name for name, _ in model.named_parameters(remove_duplicate=False)]
    identity = [id(value) for value in (*model.parameters(), *model.buffers())]
    one_step(mixer, images, labels)
    assert identity == [id(value) for value in (*model.parameters(), *model.buffers())]
    assert names == [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert all(value is not None for value in gradients(model))
    clear(model)
    out = mixer(images, labels)
    moved = [value.clone() for value in model.buffers()]
    mixer.frozen_logits(images)
    assert all(value.equal(kept) for value, kept in zip(model.buffers(), moved, strict=True))
    out.generator_loss.backward()
    assert all(value is None for value in gradients(model))
    with torch.no_grad():
        model.stage3[0].weight += 1
    assert mixer.teacher(images).equal(before)
    mixer.update_teacher(0, 10)
    assert not mixer.teacher(images).equal(before)


def test_a_compiled_classifier() -> None:
    torch.compiler.reset()
    model, (images, labels) = net(), batch()
    plain = mixer_of(copy.deepcopy(model))
    mixer = mixer_of(torch.compile(model, backend="eager"))
    assert not hasattr(mixer.teacher.model, "_orig_mod") and mixer.model is not model
    expected = one_step(plain, images, labels)
    out = one_step(mixer, images, labels)
    torch.testing.assert_close(out.generator_loss, expected.generator_loss)
    for found, wanted in zip(gradients(model), gradients(plain.model), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    mixer.update_teacher(0, 10)


def test_gradients_accumulate_over_steps() -> None:
    mixer, (images, labels) = mixer_of(net()), batch()
    given = [mixer.sample(images) for _ in range(2)]
    mixer.model.eval()  # batch norm does not move, so the order does not matter
    parts = []
    for draws in given:
        clear(mixer.model, mixer.generator)
        out = mixer(images, labels, draws)
        (out.classifier_loss + out.generator_loss).backward()
        parts.append(gradients(mixer.model) + gradients(mixer.generator))
    clear(mixer.model, mixer.generator)
    outs = [mixer(images, labels, draws) for draws in given]  # both graphs at once
    for out in outs[::-1]:
        out.generator_loss.backward()
        out.classifier_loss.backward()
    for found, one, two in zip(gradients(mixer.model) + gradients(mixer.generator), *parts, strict=True):
        torch.testing.assert_close(found, one + two, rtol=1e-4, atol=1e-5)


def faked(module: nn.Module) -> None:
    """Its tensors on a GPU that is not there, within a FakeTensorMode."""
    for part in module.modules():
        for name, value in part._parameters.items():
            part._parameters[name] = nn.Parameter(torch.empty(value.shape, device="cuda"), value.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize(
    "options", [{}, {"shared_draws": True}, {"per_image": True, "dirichlet": True, "generator_every": 2}]
)
def test_on_a_gpu_the_host_waits_for_nothing_after_the_first_call(options: dict) -> None:
    """Fake CUDA tensors have no values: reading one raises, and so do operands on two devices.

    Forward passes alone: before it goes backward on such a device, torch asks for a driver.
    """
    mixer = mixer_of(net(dropout=0.1), generator=None, **options)
    with FakeTensorMode():
        faked(mixer)
        faked(mixer.model)
        images, labels = torch.empty(4, 3, 12, 20, device="cuda"), torch.zeros(4, dtype=torch.long, device="cuda")
        with pytest.raises(DataDependentOutputException):
            mixer(images, labels)  # the first call reads, and this would notice
        mixer._checked = True
        for count in (4, 4, 2, 1):
            out = mixer(images[:count], labels[:count])
            assert out.mixed.device.type == out.classifier_loss.device.type == out.draw.plain.device.type == "cuda"
            mixer.update_teacher(1, 10)
        with pytest.raises(DataDependentOutputException):
            mixer.is_finite(out)


def test_passes_are_counted_where_the_model_is_wrapped_in_a_sequence() -> None:
    model, (images, labels) = nn.Sequential(nn.Identity(), net()), batch()
    mixer = mixer_of(model)  # "stage2" is the end of "1.stage2" alone
    assert mixer.feature_layer == "1.stage2"
    with passes(model, mixer.teacher.model) as counts:
        one_step(mixer, images, labels)
    assert counts == [4, 2]
