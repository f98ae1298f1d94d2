"""Class activation maps: Grad-CAM by hand, at layers of CNNs and transformers, and a model left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixaug._drawing import overlay
from mixaug.evaluate import class_activation_maps, draw_activation_maps
from mixaug.evaluate.images import fingerprint


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 3, height: int = 12, width: int = 10, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, height, width, generator=seeded(1))


class Network(nn.Module):
    """Two convolutions and a head that is not linear; what follows a layer writes into its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.stage = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, padding=1))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 5, 7), nn.Tanh(), nn.Linear(7, 4))
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        x = self.stage(self.norm(self.stem(images)))
        x += 0.1
        return self.head(self.drop(x.relu_()))


def network() -> Network:
    torch.manual_seed(0)
    model = Network()
    model.norm.running_mean.uniform_(-1, 1)
    return model


def pooled(channels: int = 5, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)).eval()


def finished(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) as the map of an image: resized, divided by its largest value."""
    fine = F.interpolate(coarse[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return fine / fine.max() if fine.max() > 0 else fine


def slow_map(above, activation: Tensor, target: int, size: tuple[int, int]) -> Tensor:
    """One image's Grad-CAM in loops; ``above`` gives the logits of a (C, h, w) activation."""
    leaf = activation.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(above(leaf)[target], leaf)
    total = torch.zeros(leaf.shape[1:])
    for k in range(len(leaf)):
        alpha = sum(float(value) for value in gradient[k].flatten()) / gradient[k].numel()
        total += alpha * leaf[k].detach()
    return finished(total.clamp_min(0), size)


def test_with_global_pooling_it_is_the_weighted_sum_of_the_activations():
    model, images = pooled(), pictures(6)
    for target in range(4):
        maps = class_activation_maps(model, images, torch.full((6,), target))
        with torch.no_grad():
            activations = model[0](images)
        for map_, activation in zip(maps, activations, strict=True):
            want = torch.einsum("k,khw->hw", model[3].weight[target].detach(), activation).relu()
            assert torch.allclose(map_, finished(want, (12, 10)), atol=1e-5)
    assert maps.dtype == torch.float32 and not maps.requires_grad


@pytest.mark.parametrize("layer", ["stage", "stem", "norm", "stage.1", None])
def test_a_network_that_writes_in_place_against_one_image_at_a_time(layer):
    model, images = network(), pictures()
    targets = torch.tensor([[3, 0], [1, 2], [0, 0]])
    maps = class_activation_maps(model, images, targets, layer=layer)
    model.eval()

    def from_stage(x: Tensor) -> Tensor:
        return model.head(F.relu(x + 0.1)[None])[0]

    def from_norm(x: Tensor) -> Tensor:
        return from_stage(model.stage[1](F.relu(x)[None])[0])

    def from_stem(x: Tensor) -> Tensor:
        return from_norm(model.norm(x[None])[0])

    with torch.no_grad():
        stem = model.stem(images)
        norm = model.norm(stem.clone())
        stage = model.stage[1](F.relu(norm))
    # Without a name it is the last one: the dropout, whose output follows the ReLU.
    above, activations = {
        "stem": (from_stem, stem),
        "norm": (from_norm, norm),
        None: (lambda x: model.head(x[None])[0], F.relu(stage + 0.1)),
    }.get(layer, (from_stage, stage))
    for i in range(3):
        for m in range(2):
            want = slow_map(above, activations[i], int(targets[i, m]), (12, 10))
            assert torch.allclose(maps[i, m], want, atol=1e-5), (i, m)
    assert float(maps.min()) >= 0 and float(maps.max()) == 1


def test_targets_have_one_forward_pass_and_the_default_is_the_prediction():
    model, images = network(), pictures(5)
    targets = torch.tensor([[0, 1, 2], [3, 3, 1], [2, 0, 1], [1, 2, 3], [0, 3, 2]])
    together = class_activation_maps(model, images, targets, layer="stem")
    assert model.passes == 1 and together.shape == (5, 3, 12, 10)
    for m in range(3):
        alone = class_activation_maps(model, images, targets[:, m], layer="stem")
        assert alone.shape == (5, 12, 10) and torch.allclose(together[:, m], alone, atol=1e-6)
    as_lists = class_activation_maps(model, images, targets.tolist(), layer="stem")
    assert torch.equal(as_lists, together)
    with torch.no_grad():
        predicted = model.eval()(images).argmax(1)
    default = class_activation_maps(model, images, layer="stem")
    assert torch.equal(default, class_activation_maps(model, images, predicted.int(), layer="stem"))
    assert not torch.equal(default, class_activation_maps(model, images, (predicted + 1) % 4, layer="stem"))


def test_permuted_and_split_batches_bytes_and_memory_formats():
    model, images = network(), pictures(5)
    maps = class_activation_maps(model, images, layer="stem")
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(class_activation_maps(model, images[order], layer="stem"), maps[order], atol=1e-5)
    assert torch.allclose(class_activation_maps(model, images, layer="stem", batch_size=2), maps, atol=1e-5)
    targets = torch.tensor([0, 1, 2, 3, 1])
    split, whole = (class_activation_maps(model, images, targets, layer="stem", batch_size=size) for size in (2, 5))
    assert torch.allclose(split, whole, atol=1e-5)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(class_activation_maps(model, last, layer="stem"), maps, atol=1e-5)
    levels = (images * 255).round().to(torch.uint8)
    assert torch.equal(
        class_activation_maps(model, levels, layer="stem"), class_activation_maps(model, levels / 255, layer="stem")
    )
    assert class_activation_maps(model, images[:0]).shape == (0, 12, 10)
    assert class_activation_maps(model, images[:0], torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 12, 10)
    wide = class_activation_maps(model.double(), images.double(), layer="stem")
    assert wide.dtype == torch.float32 and torch.allclose(wide, maps, atol=1e-5)


class InPlace(nn.Module):
    """Writes into the images that it is given, and its first layer hands them on as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()
        self.rest = pooled()

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.same(images).sub_(0.5))


def test_images_are_not_written_to_by_a_model_that_writes_to_its_input():
    model, images = InPlace(), pictures()
    before = images.clone()
    maps = class_activation_maps(model, images)
    assert torch.equal(images, before)
    first = class_activation_maps(model, images, layer="same")
    with torch.inference_mode():
        made_there = images.clone()
        assert torch.equal(class_activation_maps(model, made_there), maps)
        assert torch.equal(class_activation_maps(model, made_there, layer="same"), first)


def test_evidence_against_a_class_is_0_everywhere():
    model = pooled()
    with torch.no_grad():
        model[3].weight[2] = -model[3].weight[2].abs()
    maps = class_activation_maps(model, pictures(2), torch.tensor([2, 2]))
    assert float(maps.abs().max()) == 0


def test_the_model_is_left_as_it_was_and_gradients_may_be_off():
    model, images = network(), pictures()
    model.norm.eval()
    model.stem.weight.requires_grad_(False)
    model.head[1].weight.grad = torch.ones_like(model.head[1].weight)
    seen = []
    own = model.stage.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    before, state, copy = fingerprint(dict(model.state_dict())), torch.get_rng_state(), images.clone()
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]

    def same() -> bool:
        hooks = [len(module._forward_hooks) for module in model.modules()]
        return (
            fingerprint(dict(model.state_dict())) == before
            and [module.training for module in model.modules()] == modes
            and [parameter.requires_grad for parameter in model.parameters()] == wanted
            and sum(hooks) == 1 == len(model.stage._forward_hooks)
            and bool((model.head[1].weight.grad == 1).all())
            and model.stem.weight.grad is None
            and torch.equal(torch.get_rng_state(), state)
            and torch.equal(images, copy)
        )

    maps = class_activation_maps(model, images, layer="norm")
    assert same() and seen == [True]
    with torch.no_grad():
        assert torch.equal(class_activation_maps(model, images, layer="norm"), maps)
    with torch.inference_mode():
        made_there = images.clone()
        assert torch.equal(class_activation_maps(model, made_there, layer="norm"), maps)
    assert same()
    with pytest.raises(ValueError, match="targets must lie below the model's 4 classes, got 4"):
        class_activation_maps(model, images, torch.tensor([0, 4, 1]))
    with pytest.raises(ValueError, match="layer 'head' does not serve: the output of the layer must be a map"):
        class_activation_maps(model, images, layer="head")
    own.remove()
    model.head[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        class_activation_maps(model, images, layer="norm")
    own = model.stage.register_forward_hook(lambda *args: None)
    assert same()
    model.requires_grad_(False)
    model.head[1]._forward_pre_hooks.clear()
    assert torch.equal(class_activation_maps(model, images, layer="norm"), maps)


def test_no_graph_is_kept_of_what_runs_before_the_layer():
    model, seen = network(), {}
    for name in ("stem", "norm"):
        getattr(model, name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: (args[0].requires_grad, output.requires_grad)})
        )
    class_activation_maps(model, pictures(), layer="stage")
    assert seen == {"stem": (False, False), "norm": (False, False)}
    # Nor of what is as large as the last layer, where that is no transformer's.
    model.drop.register_forward_hook(lambda module, args, output: seen.update(drop=args[0].requires_grad))
    class_activation_maps(model, pictures())
    assert seen["drop"] is False


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.beside = nn.Conv2d(3, 3, 1)
        self.out = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        self.beside(images)
        return self.out(self.same(self.same(images).relu()).relu().mean((2, 3)))


def test_of_a_layer_that_runs_twice_it_is_the_last_run():
    torch.manual_seed(0)
    model, images = Twice().eval(), pictures(2)
    maps = class_activation_maps(model, images, torch.tensor([0, 1]), layer="same")
    with torch.no_grad():
        last = model.same(model.same(images).relu())
    for i in range(2):
        want = slow_map(lambda x: model.out(x.relu().mean((1, 2))), last[i], i, (12, 10))
        assert torch.allclose(maps[i], want, atol=1e-5)
    with pytest.raises(ValueError, match="layer must be one that runs, got 'unused', which did not"):
        class_activation_maps(model, images, layer="unused")
    with pytest.raises(ValueError, match="layer must be one that the logits depend on"):
        class_activation_maps(model, images, layer="beside")


def small_vit(**more) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=(24, 32), patch_size=8, depth=3, num_classes=5, **more)
    nn.init.normal_(model.head.weight, generator=seeded())  # timm starts it at 0
    nn.init.normal_(model.blocks[2].attn.qkv.bias, generator=seeded())
    return model.eval()


def test_tokens_of_a_vision_transformer_are_laid_out_without_those_before_them():
    model, images = small_vit(reg_tokens=2), pictures(2, 24, 32)
    kept: dict[str, Tensor] = {}
    hook = model.blocks[2].norm1.register_forward_hook(lambda module, args, output: kept.update(out=output))
    logits = model(images)
    hook.remove()
    targets = torch.tensor([[4, 1], [0, 2]])
    maps = class_activation_maps(model, images, targets, layer="blocks.2.norm1")
    for i in range(2):
        for m in range(2):
            (gradient,) = torch.autograd.grad(logits[i, targets[i, m]], kept["out"], retain_graph=True)
            tokens = kept["out"][i, 3:].detach()  # after the class and two registers; 3 rows of 4 places
            want = (tokens @ gradient[i, 3:].mean(0)).view(3, 4).relu()
            assert torch.allclose(maps[i, m], finished(want, (24, 32)), atol=1e-4)
    # The default is the same layer: the class token alone is read after the last attention.
    assert torch.allclose(class_activation_maps(model, images, targets), maps, atol=1e-4)
    assert float(class_activation_maps(model, images, targets, layer="blocks.2.mlp").max()) == 0


def test_a_transformer_that_pools_its_places_is_looked_at_in_its_last_layer():
    model, images = small_vit(global_pool="avg", class_token=False, fc_norm=False), pictures(2, 24, 32)
    targets = torch.arange(5).expand(2, 5)
    maps = class_activation_maps(model, images, targets)
    assert torch.allclose(maps, class_activation_maps(model, images, targets, layer="norm"), atol=1e-5)
    assert maps.amax((1, 2, 3)).tolist() == [1, 1]


def test_torchvisions_transformers():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    images = pictures(1, 64, 64)
    vit = torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=32)
    nn.init.normal_(vit.heads.head.weight, generator=seeded())
    want = class_activation_maps(vit, images, layer="encoder_layer_1.ln_1")
    assert torch.allclose(class_activation_maps(vit, images), want, atol=1e-4) and float(want.max()) == 1
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=3).eval()
    kept: dict[str, Tensor] = {}
    hook = swin.norm.register_forward_hook(lambda module, args, output: kept.update(out=output))
    with torch.no_grad():
        swin(images)
    hook.remove()
    activation = kept["out"][0].permute(2, 0, 1)  # (h, w, C) of 8x8 places
    weight = swin.head.weight[2].detach()
    want = finished(torch.einsum("k,khw->hw", weight, activation).relu(), (64, 64))
    assert torch.allclose(class_activation_maps(swin, images, torch.tensor([2]), layer="norm")[0], want, atol=1e-5)
    assert torch.allclose(class_activation_maps(swin, images, torch.tensor([2]))[0], want, atol=1e-5)


def test_wrapped_and_compiled_models():
    model, images = network(), pictures()
    maps = class_activation_maps(model, images, layer="stem")
    compiled = torch.compile(network(), backend="eager")
    with torch.no_grad():
        compiled.eval()(images)  # compiled now, without the hooks to come
    assert torch.equal(class_activation_maps(compiled, images, layer="stem"), maps)
    assert torch.equal(class_activation_maps(compiled, images), class_activation_maps(network(), images))
    inner = nn.Sequential(network(), nn.Identity())
    assert torch.equal(class_activation_maps(inner, images, layer="stem"), maps)  # the end of "0.stem"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": pictures()[0]}, ValueError, r"images must have shape \(B, C, H, W\), got \(3, 12, 10\)"),
        ({"images": pictures().long()}, TypeError, r"images must be uint8 or floating point .*, got torch.int64"),
        ({"images": pictures() * 3}, ValueError, r"images must lie in \[0, 1\], got values from .* normalise inside"),
        ({"images": pictures() * float("nan")}, ValueError, r"images must lie in \[0, 1\]"),
        ({"targets": torch.zeros(3)}, TypeError, "targets must be integers, got torch.float32"),
        ({"targets": [0, 1]}, ValueError, r"targets must have shape \(3,\), or \(3, M\) .*, got \(2,\)"),
        ({"targets": torch.zeros(3, 0, dtype=torch.int64)}, ValueError, r"targets must have shape .*, got \(3, 0\)"),
        ({"targets": [0, -1, 2]}, ValueError, "targets must be 0 or more, got -1"),
        ({"layer": "layer9"}, ValueError, "^layer must be the name of a layer of the model: stem, norm, .*'layer9'"),
        ({"layer": 3}, TypeError, "^layer must be the name of a layer, got int"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647, got 0"),
    ],
)  # fmt: skip
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        class_activation_maps(**{"model": network(), "images": pictures(), **arguments})


def test_refuses_models_without_places_or_with_numbers_that_are_not_finite():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        class_activation_maps(lambda x: x, pictures())
    with pytest.raises(ValueError, match="model must have a layer whose output is a map of more than one place"):
        class_activation_maps(nn.Sequential(nn.Flatten(), nn.Linear(360, 2)), pictures())
    broken = pooled()
    with torch.no_grad():
        broken[3].weight[1, 0] = float("inf")
    with pytest.raises(FloatingPointError, match="activations or their gradients are not finite"):
        class_activation_maps(broken, pictures(), torch.tensor([1, 1, 1]))


def test_pictures_are_drawn_with_their_maps(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    images, maps = pictures(5, 16, 12), torch.rand(5, 16, 12, generator=seeded())
    path = draw_activation_maps(images, maps, ["a", "b", "c", "d", "e"], tmp_path / "new" / "maps.png")
    assert [file.name for file in path.parent.iterdir()] == ["maps.png"] and imread(path).ndim == 3
    several = torch.stack([maps, 1 - maps], 1)
    names = [("cat", "dog")] * 5
    wide = draw_activation_maps((images[:, :1] * 255).byte(), several, names, tmp_path / "wide.png")
    tall = draw_activation_maps(images[:1], several[:1], None, tmp_path / "tall.png")
    # 180 dots an inch, 5.2 inches wide. Six pictures beside each other: three images with a map, or two with two.
    cell = 5.2 / 6 * 16 / 12
    for file, inches in [(path, 2 * (cell + 0.18)), (wide, 3 * (cell + 0.18)), (tall, 5.2 / 3 * 16 / 12)]:
        assert imread(file).shape[:2] == (pytest.approx(180 * inches, abs=2), 936)
    again = draw_activation_maps(images, maps, ["a", "b", "c", "d", "e"], tmp_path / "again.png")
    assert path.read_bytes() == again.read_bytes()


def test_a_map_colours_its_image_where_it_is_high():
    pytest.importorskip("matplotlib")
    image = torch.tensor([[[90]], [[30]], [[0]]], dtype=torch.uint8).expand(3, 2, 2)
    drawn = overlay(image, torch.tensor([[0.0, 1.0], [0.5, 0.0]]))
    assert drawn[0, 0].tolist() == drawn[1, 1].tolist() == [40, 40, 40]  # the grey of the image alone
    # inferno ends in (252, 255, 164): three quarters of it and a quarter of the grey.
    assert drawn[0, 1].tolist() == [199, 201, 133] and drawn.dtype == torch.uint8
    assert len({tuple(drawn[place].tolist()) for place in [(0, 0), (0, 1), (1, 0)]}) == 3


def test_refuses_pictures_that_do_not_fit(tmp_path):
    images, maps = pictures(2), torch.rand(2, 12, 10)
    for arguments, error, message in [
        ((images, maps[:1], None), ValueError, r"maps must have shape \(2, 12, 10\) or \(2, M, 12, 10\), got \(1, 12"),
        ((images, maps * 2, None), ValueError, r"maps must lie in \[0, 1\], got values from"),
        ((images, maps.byte(), None), TypeError, "maps must be a floating point tensor, got torch.uint8"),
        ((images[:, :2], maps, None), ValueError, r"images must have shape .* C of 1 or 3, got \(2, 2, 12, 10\)"),
        (([1], maps, None), TypeError, "images must be uint8 or floating point in"),
        ((images, maps, ["a"]), ValueError, r"names must have 2 entries of 1 name each, got \[1\]"),
        ((images, maps, [("a", "b"), "c"]), ValueError, r"names must have 2 entries of 1 name each, got \[2, 1\]"),
        ((images, maps, "ab"), TypeError, "names must be a sequence of names, one for each map, or None, got str"),
    ]:
        with pytest.raises(error, match=message):
            draw_activation_maps(*arguments, tmp_path / "maps.png")
    assert list(tmp_path.iterdir()) == []
