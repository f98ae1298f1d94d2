"""torch's default dtype must not matter: results of input with a stated dtype are the same bits under any of them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import pytest
import torch
from paths import ROOT
from torch import Tensor, nn

from mixaug import DynamicMixCut, DynamicMixCutCollate, GeneratedMix, IPMix, LabelSmoothingCollate, MixingSet
from mixaug.adautomix import AdAutoMix, MixLaw, SavedGenerator, sample_mix
from mixaug.attacks import APGD, CWL2, FGSM, KLPGD, PGD, SPSA, CWLinf, FeatureScatter, Square
from mixaug.evaluate import evaluate_model
from mixaug.evaluate.corruptions import CORRUPTIONS, corrupt
from mixaug.evaluate.corruptions.noise import poisson_torch
from mixaug.evaluate.corruptions.perturbations import PERTURBATIONS, frame, sample_perturbation
from mixaug.evaluate.measures.activation_maps import class_activation_maps
from mixaug.evaluate.measures.anomaly import anomaly
from mixaug.evaluate.measures.calibration import ece, reliability_curve, rms
from mixaug.evaluate.measures.features import penultimate_features
from mixaug.evaluate.measures.lipschitz import lipschitz_constants
from mixaug.evaluate.measures.occlusion import occlusion_curve
from mixaug.evaluate.measures.surface import loss_surface
from mixaug.losses import EpsSchedule, jensen_shannon, soft_target_cross_entropy, trades_loss
from mixaug.mixing_sets.contours import render_contours, sample_contours
from mixaug.mixing_sets.dead_leaves import render_dead_leaves, sample_dead_leaves
from mixaug.mixing_sets.fractals import render_fractals, sample_fractals
from mixaug.mixing_sets.ifs import render_ifs, sample_ifs
from mixaug.mixing_sets.spectrum import render_spectrum, sample_spectrum
from mixaug.models import build_model
from mixaug.nn import DReLU, MixGenerator, SReLU, add_drelu_head, replace_relu, set_caps
from mixaug.ops import replay_ipmix
from mixaug.ops.ipmix import ipmix_torch
from mixaug.train.checkpoint import load_checkpoint
from mixaug.train.data import load_data
from mixaug.train.loop import train
from mixaug.train.settings import TrainSettings
from mixaug.transforms.dynamic_mixcut import PER_IMAGE, DynamicMixCutSettings, derive

OTHERS = [torch.float64, torch.float16, torch.bfloat16]
#: The option of conftest.py that this file's last test runs the central files with.
CENTRAL = [
    "transforms/test_dynamic_mixcut.py",
    "transforms/test_ipmix.py",
    "mixing_sets/test_picks.py",
    "test_losses.py",
]

# What gives floating numbers of the default dtype unless a dtype is stated; the values are positional arguments up to
# which the result may be whole (arange) or is what it is given (as_tensor).
FACTORIES = {"rand", "randn", "empty", "zeros", "ones", "eye", "linspace", "logspace", "normal", "scalar_tensor"}
BY_VALUE = {"tensor", "full", "arange", "as_tensor", "asarray"}
#: Names that do not say their kind, by file: numbers of these are whole, or have a dtype already.
ALLOWED = {
    ("mixaug/commands/preview.py", "tensor"): "classes, made by int()",
    ("mixaug/evaluate/measures/occlusion.py", "tensor"): "a side in pixels",
    ("mixaug/evaluate/subject.py", "as_tensor"): "numbers of classes; logits of a session, NumPy arrays",
    ("mixaug/evaluate/measures/activation_maps.py", "as_tensor"): "classes; floating ones are refused",
    ("mixaug/evaluate/images.py", "tensor"): "numbers of classes",
    ("mixaug/evaluate/measures/consistency.py", "tensor"): "pairs of frames; seeds",
    ("mixaug/evaluate/corruptions/frost.py", "tensor"): "sides in pixels",
    ("mixaug/evaluate/corruptions/digital.py", "full"): "a shift of bits, whole",
    ("mixaug/evaluate/corruptions/sets.py", "tensor"): "numbers of classes",
    ("mixaug/evaluate/measures/surface.py", "tensor"): "a class",
    ("mixaug/evaluate/measures/surface.py", "full"): "a class",
    ("mixaug/mixing_sets/contours/__init__.py", "tensor"): "kinds, counts and attempts",
    ("mixaug/mixing_sets/ifs/render.py", "tensor"): "attempts",
    ("mixaug/mixing_sets/spectrum/__init__.py", "tensor"): "attempts",
    ("mixaug/ops/ipmix_record.py", "as_tensor"): "rows",
    ("mixaug/train/data.py", "as_tensor"): "the bytes and classes of a data set, arrays",
    ("mixaug/transforms/ipmix.py", "tensor"): "sides in pixels",
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def whole(node: ast.expr) -> bool:
    """Whether an expression is made of whole numbers and names alone: no point, no division."""
    return not any(
        (isinstance(part, ast.Constant) and isinstance(part.value, float))
        or (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div))
        for part in ast.walk(node)
    )


def unstated(path: str, source: str) -> list[str]:
    """Calls of torch's factories in a file that leave a floating result to the default dtype."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, owner = node.func.attr, node.func.value
        if not (isinstance(owner, ast.Name) and owner.id == "torch") or any(k.arg == "dtype" for k in node.keywords):
            continue
        if name in BY_VALUE:
            value = node.args[1] if name == "full" else node.args[0]
            counts = name == "arange" and all(whole(argument) for argument in node.args)
            literal = isinstance(value, (ast.List, ast.Constant)) and not any(
                isinstance(part, (ast.Name, ast.Attribute, ast.Call)) for part in ast.walk(value)
            )
            if counts or (literal and whole(value)) or (path, name) in ALLOWED:
                continue
        elif name not in FACTORIES:
            continue
        found.append(f"{path}:{node.lineno}: torch.{name}")
    return found


def test_every_factory_of_floats_states_its_dtype() -> None:
    files = sorted(path for folder in ("mixaug", "mixaug_ext") for path in (ROOT / folder).rglob("*.py"))
    assert len(files) > 150
    assert not [line for path in files for line in unstated(str(path.relative_to(ROOT)), path.read_text())]


@pytest.mark.parametrize(
    "call",
    ["torch.rand(3)", "torch.full((2,), 0.5)", "torch.tensor([1.0])", "torch.arange(n / 2)", "torch.tensor(values)"],
)
def test_a_factory_without_a_dtype_is_found(call: str) -> None:
    assert unstated("mixaug/new.py", f"x = {call}\n") == [f"mixaug/new.py:1: {call.split('(')[0]}"]
    assert not unstated("mixaug/new.py", f"x = {call[:-1]}, dtype=torch.float32)\n")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BYTES = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=seeded(1))
IMAGES = BYTES.to(torch.float32) / 255
LABELS = torch.arange(6) % 4
PICTURES = MixingSet.from_tensor(torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=seeded(2)))


def classifier() -> nn.Sequential:
    """float32 whatever the default is, with weights from a generator."""
    f32 = {"dtype": torch.float32}
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1, **f32), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1, **f32), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 4, **f32),
    )  # fmt: skip
    g = seeded(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=g, dtype=torch.float32) - 0.5) * 0.4)
    return model.eval()


def of_ipmix() -> list:
    out: list = []
    for structure in ("chain", "linear", "mixed_input"):
        for levels in (("image", "patch", "pixel"), ("pixel",)):
            mix = IPMix(structure=structure, levels=levels, all_ops=True, self_mix=0.5, mixing_set=PICTURES,
                        generator=seeded(4))  # fmt: skip
            for images in (BYTES, IMAGES):
                params = mix.sample(images)
                bank = PICTURES.resized(params.side)
                out += [*params.tensors().values(), mix.replay(images, params), replay_ipmix(images, params, bank),
                        ipmix_torch(images, params, bank)]  # fmt: skip
    out += IPMix(n_views=2, mixing_set=PICTURES, generator=seeded(5))(IMAGES.to(torch.bfloat16))
    picture = PIL.Image.fromarray(BYTES[0].permute(1, 2, 0).numpy())
    return [*out, torch.frombuffer(bytearray(IPMix(mixing_set=PICTURES, generator=seeded(6))(picture).tobytes()),
                                   dtype=torch.uint8)]  # fmt: skip


def of_mixcut() -> list:
    out: list = []
    for options in (
        {},
        {"area": (0.1, 0.3)},
        {"square": False},
        {"area": (0.1, 0.3), "square": False, "boxes": (1, 3)},
    ):
        mix = DynamicMixCut(4, generator=seeded(7), p=0.8, **options)
        params = mix.sample(IMAGES)
        out += [*params.tensors().values(), *mix.replay(IMAGES, LABELS, params), *mix(BYTES, LABELS)]
    settings = DynamicMixCutSettings(boxes=(1, 3))
    uniforms = torch.rand(6, PER_IMAGE + 3 * settings.per_box, generator=seeded(8), dtype=torch.float32)
    return out + list(derive(uniforms, (16, 16), settings))


def of_collates() -> list:
    samples = [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    mixed = DynamicMixCutCollate(4, generator=seeded(9))(samples)
    return [*mixed, *LabelSmoothingCollate(4)(samples)]


def of_mixing_sets() -> list:
    picks = PICTURES.pick(5, 16, generator=seeded(10))
    return [picks, PICTURES.resized(33)]


def of_sources() -> list:
    return [
        render_contours(sample_contours(1, 3), 24),
        render_dead_leaves(sample_dead_leaves(1, 3), 24),
        render_fractals(sample_fractals(1, 3), 24),
        render_ifs(sample_ifs(1, 3), 24),
        render_spectrum(sample_spectrum(1, 3), 24),
    ]


def of_adautomix() -> list:
    torch.manual_seed(0)
    model = classifier()
    mixer = AdAutoMix(model, num_classes=4, n_mix=2, generator=seeded(11))
    out = mixer(IMAGES, LABELS)
    alone = mixer(IMAGES[:1], LABELS[:1])
    saved = SavedGenerator(
        mixer.generator.state_dict(), mixer.generator.channels, mixer.teacher.model.state_dict(), mixer.feature_layer,
        4, MixLaw(2),
    )  # fmt: skip
    generator, teacher = saved.build(classifier())
    mixed = GeneratedMix(generator, teacher, num_classes=4, p=0.7, generator=seeded(12))(IMAGES, LABELS)
    draws = [sample_mix(5, law, seeded(13)) for law in (MixLaw(2), MixLaw(3, per_image=True))]
    draws.append(sample_mix(1, MixLaw(2), seeded(13)))
    return [
        out.classifier_loss, out.generator_loss, out.mixed, out.masks, out.logits, out.targets, alone.masks,
        alone.generator_loss, *mixed, *(draw.ratios for draw in draws), *mixer.generator.parameters(),
    ]  # fmt: skip


def of_capped_relu() -> list:
    x = torch.randn(3, 4, 5, 5, generator=seeded(14), dtype=torch.float32) * 8
    out = [SReLU(6.1)(x)]
    for layer in (DReLU(4, init=6.1), DReLU(init=6.1), DReLU(1, init=6.1)):
        out.append(layer(x).detach())
    for options in ({"granularity": "channel", "init": 9.123}, {"granularity": "layer", "init": 9.123}):
        model = replace_relu(classifier(), example_input=IMAGES, **options)
        out.append(model(IMAGES).detach())
        set_caps(model, IMAGES, 0.9)
        out += [parameter.detach() for parameter in model.parameters()]
    torch.manual_seed(0)
    head = add_drelu_head(classifier(), 8, init=0.123, example_input=IMAGES)
    return [*out, head(IMAGES).detach(), *(parameter.detach() for parameter in head.parameters())]


def of_losses() -> list:
    one, two, three = torch.randn(3, 6, 4, generator=seeded(15), dtype=torch.float32)
    out = [
        soft_target_cross_entropy(one, LABELS), soft_target_cross_entropy(one, two.softmax(1)),
        jensen_shannon(one, two, three), trades_loss(one, two, LABELS),
    ]  # fmt: skip
    return [*out, *(soft_target_cross_entropy(logits.half(), LABELS) for logits in (one, two)), EpsSchedule(0.1, 5)(3)]


def of_attacks() -> list:
    attacks = [
        FGSM(0.1), PGD(0.1, 0.02, 3, generator=seeded(16)), PGD(0.5, 0.1, 3, norm="l2", generator=seeded(16)),
        CWLinf(0.1, 0.02, 3, generator=seeded(16)), CWL2(steps=4, search_steps=2), KLPGD(0.1, 0.02, 3, seeded(16)),
        SPSA(0.1, 0.02, 2, samples=4, generator=seeded(16)), FeatureScatter(0.1, generator=seeded(16)),
        APGD(0.1, 3, generator=seeded(16)), Square(0.1, 5, generator=seeded(16)),
    ]  # fmt: skip
    model = classifier()
    return [attack(model, IMAGES, LABELS) for attack in attacks]


def of_corruptions() -> list:
    made = [corrupt(BYTES[:2], name, 3, preset="cifar", generator=seeded(17)) for name in CORRUPTIONS]
    params = sample_perturbation(2, seeded(18))
    made += [frame(IMAGES[:2], name, 4, "cifar", params) for name in PERTURBATIONS]
    uniforms = torch.rand(64, generator=seeded(19), dtype=torch.float32)
    return [*made, poisson_torch(uniforms.flip(0), uniforms, 25.0)]


def of_measures() -> list:
    model, data = classifier(), (IMAGES, LABELS)
    sure = torch.rand(120, generator=seeded(20), dtype=torch.float32)
    right = sure > 0.4
    scores = anomaly(model, data, IMAGES.flip(-1), n_out=3)
    surface = loss_surface(model, IMAGES[0], 1, radius=0.1, points=3, generator=seeded(21))
    features = penultimate_features(model, IMAGES)
    return [
        ece(sure, right), rms(sure, right), reliability_curve(sure, right).accuracy,
        occlusion_curve(model, data, patch_size=4).correct,
        lipschitz_constants(model, IMAGES, eps=0.1, steps=2, generator=seeded(22)), surface.losses, surface.offsets,
        scores.confidence_in, scores.confidence_out, str(scores.auroc), features.values, features.logits,
        class_activation_maps(model, BYTES, LABELS),
    ]  # fmt: skip


def of_evaluate() -> list:
    report = evaluate_model(classifier(), (BYTES, LABELS), corruptions=None, n_attack=2, n_lipschitz=2)
    outcomes = report.outcomes
    return [
        outcomes.correct,
        outcomes.confidence,
        report.measured["lipschitz"].value,
        str(report.rms),
        *outcomes.attacked.values(),
    ]


def of_functions() -> list:
    """A model that is a function gives Python numbers, which have no dtype."""
    weight = torch.randn(768, 4, generator=seeded(23), dtype=torch.float32) / 3
    report = evaluate_model(
        lambda images: (images.flatten(1) @ weight).tolist(),
        (BYTES, LABELS),
        corruptions=None,
        attacks={},
        n_lipschitz=1,
    )
    return [report.outcomes.confidence]


def of_networks() -> list:
    torch.manual_seed(0)
    model = build_model("lenet5", num_classes=4, in_channels=1, image_size=28)
    return [*model.state_dict().values()]


def of_training() -> list:
    out = []
    data = load_data("digits", validation=0.1, limit=96)
    for method in ("mixup", "augmix"):
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainSettings(
                data="digits", model="lenet5", method=method, epochs=1, batch_size=32, limit=96,
                out=str(Path(folder) / "run"),
            )  # fmt: skip
            model, _ = load_checkpoint(train(settings, data, progress=False).last)
            out += model.state_dict().values()
    return out


PATHS = [value for name, value in list(globals().items()) if name.startswith("of_")]


def plain(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


_KEPT: dict[str, list] = {}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__[3:])
@pytest.mark.parametrize("dtype", OTHERS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_results_are_those_under_float32(path: Callable[[], list], dtype: torch.dtype) -> None:
    if path.__name__ not in _KEPT:
        _KEPT[path.__name__] = [plain(value) for value in path()]
    with default_dtype(dtype):
        found = path()
    for index, (value, expected) in enumerate(zip(found, _KEPT[path.__name__], strict=True)):
        if isinstance(expected, Tensor):
            assert value.dtype == expected.dtype, (index, value.dtype)
            assert torch.equal(plain(value).nan_to_num(7) if value.is_floating_point() else value,
                               expected.nan_to_num(7) if expected.is_floating_point() else expected), index  # fmt: skip
        else:
            assert value == expected, index


@pytest.mark.parametrize("dtype", OTHERS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_modules_follow_the_default_dtype_as_torch_s_do_but_caps_are_float32_at_least(dtype: torch.dtype) -> None:
    with default_dtype(dtype):
        cap = torch.float64 if dtype == torch.float64 else torch.float32
        assert MixGenerator(4).project.weight.dtype == dtype
        assert DReLU(3).max_value.dtype == SReLU(6.1).max_value.dtype == cap
        assert build_model("lenet5", 4, 1, 28)[1].state_dict().popitem()[1].dtype == torch.float32
        assert torch.get_default_dtype() == dtype


@pytest.mark.slow
@pytest.mark.parametrize("dtype", OTHERS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_central_files_pass_under_it(dtype: torch.dtype) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
    # The option watches torch's functions: not for torch.compile, nor for a test that replaces Tensor.to. Loops over
    # pixels, which it makes slow, add nothing to the results above.
    chosen = "not compile and not fake and not wait and not opcheck and not equals_the and not any_batch"
    command += ["-k", chosen, f"--default-dtype={str(dtype).removeprefix('torch.')}"]
    done = subprocess.run(
        [*command, *(str(ROOT / "tests" / name) for name in CENTRAL)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
