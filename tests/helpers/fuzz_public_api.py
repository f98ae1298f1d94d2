"""Calls the public constructors and functions with right and hostile arguments; each call must end in a result or in an
error that names an argument.

``python tests/helpers/fuzz_public_api.py --calls 20000 --seed 0`` prints the counts and every call that ended otherwise;
``test_fuzz_public_api.py`` runs a short version.
"""

# ruff: noqa: E501 - a table reads in rows
from __future__ import annotations

import argparse
import inspect
import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import mixaug
from mixaug import attacks, losses, ops
from mixaug._checks import kind_of
from mixaug.adautomix.mixing import MixLaw, sample_mix
from mixaug.attacks.feature_scatter import transport_cost
from mixaug.evaluate import Thresholds
from mixaug.evaluate.corruptions import corrupt
from mixaug.evaluate.corruptions.mce import corruption_errors
from mixaug.evaluate.corruptions.perturbations import frame, sample_perturbation
from mixaug.evaluate.intervals import wilson
from mixaug.evaluate.measures.calibration import ece, reliability_curve, rms
from mixaug.evaluate.measures.consistency import flips, pairs
from mixaug.evaluate.measures.occlusion import occlude, patch_grid, sample_patch_order
from mixaug.mixing_sets import MixingSet, make_pictures, sample_picks
from mixaug.nn import add_drelu_head, param_groups, replace_relu, set_caps, shrink_caps
from mixaug.nn.mix_generator import MixGenerator
from mixaug.ops.capped_relu import capped_relu
from mixaug.ops.composite import composite_boxes
from mixaug.train.settings import TrainSettings
from mixaug.transforms.dynamic_mixcut import DynamicMixCutSettings, sample_boxes, sample_dynamic_mixcut
from mixaug.transforms.labels import smooth_labels

#: Errors that are an answer to a wrong argument.
ANSWERS = (TypeError, ValueError, IndexError, FloatingPointError, ModuleNotFoundError, NotADirectoryError)

Make = Callable[[random.Random], Any]


def floats(*shape: int) -> Make:
    return lambda r: torch.rand(*shape, generator=torch.Generator().manual_seed(r.randrange(2**31)))


def whole(high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Make:
    return lambda r: torch.randint(0, high, shape, generator=torch.Generator().manual_seed(r.randrange(2**31))).to(
        dtype
    )


def one_of(*values: Any) -> Make:
    return lambda r: r.choice(values)


def number(low: float, high: float) -> Make:
    return lambda r: r.choice([float, np.float32, np.float64])(r.uniform(low, high))


def count(low: int, high: int) -> Make:
    return lambda r: r.choice([int, np.int64, np.uint8])(r.randint(low, high))


class Flat(nn.Flatten):
    """Takes every floating dtype, and says what it takes: an error that does not is not the model's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor and x.shape[1:] != (3, 8, 8):
            raise ValueError(f"images must have shape (B, 3, 8, 8), got {tuple(x.shape)}")
        return super().forward(x).float()


def model(_: random.Random) -> nn.Module:
    return nn.Sequential(Flat(), nn.Linear(3 * 8 * 8, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def generator(r: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(r.randrange(2**31))


def bank(_: random.Random) -> MixingSet:
    return MixingSet.from_tensor(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


PROBABILITIES: Make = lambda r: floats(4, 3)(r).softmax(1)  # noqa: E731
FLAG, SEED, UNIT, NORM = one_of(True, False, np.True_), count(0, 200), number(0, 1), one_of("linf", "l2")
IMAGES, LABELS, LOGITS = floats(4, 3, 8, 8), whole(3, 4), floats(4, 3)
BYTES = whole(256, 4, 3, 8, 8, dtype=torch.uint8)
EITHER_IMAGES: Make = lambda r: r.choice([IMAGES, BYTES])(r)  # noqa: E731


def hostile(r: random.Random) -> Any:
    """A value that few arguments take."""
    generator = torch.Generator().manual_seed(r.randrange(2**31))
    kinds: list[Callable[[], Any]] = [
        lambda: r.choice([None, True, False, "x", "", b"x", object(), {}, [], (), {"a": 1}, {1, 2}, int, range(3)]),
        lambda: r.choice([0, -1, 1, 2, 3, 7, 255, 10**6 + 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400, -(10**30)]),
        lambda: r.choice([0.0, -0.5, 1.5, 1e-320, 1e300, float("nan"), float("inf"), float("-inf"), 2j]),
        lambda: r.choice([np.int8(3), np.uint64(2**64 - 1), np.float16(0.5), np.float64("nan"), np.bool_(True), np.str_("x")]),
        lambda: r.choice([np.zeros(3), np.array(2), np.array("x"), np.zeros((4, 3, 8, 8)), np.array([], dtype=int)]),
        lambda: r.choice([torch.tensor(2), torch.tensor(0.5), torch.tensor(True), torch.tensor(float("nan"))]),
        lambda: r.choice(["linf", "L2", "gausian_noise", "cifar", "Chain", "fractal", "mean", "path\x00name"]),
        lambda: r.choice([(1, 2), (2, 1), (1,), (0.1, 0.5), (0.5, 0.1), [1, 2, 3], ["image", "image"], [None], [float("nan")]]),
        lambda: torch.rand(r.choice([(4,), (4, 3), (3, 8, 8), (4, 3, 8, 8), (0, 3, 8, 8), (4, 2, 8, 8), (4, 3, 8, 0), ()]),
                           generator=generator).to(r.choice([torch.float16, torch.bfloat16, torch.float32, torch.float64])),
        lambda: torch.randint(-3, 300, r.choice([(4,), (4, 2), (4, 3), (4, 3, 8, 8), (4, 2, 4), (0,), (5,)]),
                              generator=generator).to(r.choice([torch.uint8, torch.int32, torch.int64, torch.bool])),
        lambda: r.choice([torch.full((4, 3), float("nan")), torch.full((4, 3, 8, 8), float("inf")), torch.full((4,), -100)]),
        lambda: r.choice([torch.zeros(4, 3, 8, 8, device="meta"), torch.zeros(4, 3, dtype=torch.complex64),
                          torch.eye(4, 3).to_sparse(), torch.rand(4, 3, 8, 8)[:, :, ::2]]),
    ]  # fmt: skip
    return r.choice(kinds)()


@dataclass(frozen=True)
class Target:
    """What is called: a function, and for each argument what makes a right value."""

    call: Callable[..., Any]
    arguments: dict[str, Make]


def record(r: random.Random) -> Any:
    return sample_dynamic_mixcut(4, (8, 8), DynamicMixCutSettings(), generator(r))


def attack_with(kind: type, **given: Make) -> Target:
    common = {"eps": UNIT, "generator": generator, "norm": NORM}
    fields = inspect.signature(kind).parameters
    return Target(kind, {name: make for name, make in {**common, **given}.items() if name in fields})


def targets() -> dict[str, Target]:
    """Every target by name."""
    area = one_of(None, (0.1, 0.5), [0, 1])
    levels = one_of(("image",), ["patch", "pixel"], ("image", "patch", "pixel"))
    mixcut = {
        "num_classes": count(3, 9), "boxes": one_of(1, 2, (1, 3), [2, 2]), "smoothing": UNIT, "p": UNIT, "area": area,
        "square": FLAG, "labels_getter": one_of("default"), "generator": generator,
    }  # fmt: skip
    steps = {
        "step_size": number(0.01, 1), "steps": count(1, 9), "targeted": FLAG, "random_start": FLAG, "early_stop": FLAG,
        "batch_size": one_of(None, 3, np.int64(2)), "batch_norm": one_of("still", "moves"),
    }  # fmt: skip
    return {
        "IPMix": Target(mixaug.IPMix, {
            "k": count(1, 4), "t": count(1, 4), "severity": number(0.1, 10), "beta": number(0.5, 9),
            "patch_sizes": one_of(None, (4,), [2, 4]), "self_mix": UNIT, "levels": levels, "all_ops": FLAG,
            "structure": one_of("chain", "linear", "mixed_input"), "n_views": count(1, 3), "mixing_set": bank,
            "generator": generator, "check_values": FLAG}),
        "IPMix()": Target(lambda images: mixaug.IPMix(levels=("image",), n_views=1)(images), {"images": EITHER_IMAGES}),
        "IPMix.replay": Target(lambda images, params: mixaug.IPMix(levels=("image",)).replay(images, params), {
            "images": EITHER_IMAGES, "params": lambda r: mixaug.IPMix(levels=("image",)).sample(torch.rand(4, 3, 8, 8))}),
        "DynamicMixCut": Target(mixaug.DynamicMixCut, {**mixcut, "check_values": FLAG}),
        "DynamicMixCut()": Target(lambda images, labels: mixaug.DynamicMixCut(3)(images, labels), {
            "images": EITHER_IMAGES, "labels": LABELS}),
        "DynamicMixCut.replay": Target(
            lambda images, labels, params: mixaug.DynamicMixCut(3).replay(images, labels, params),
            {"images": EITHER_IMAGES, "labels": LABELS, "params": record}),
        "DynamicMixCutCollate": Target(mixaug.DynamicMixCutCollate, mixcut),
        "DynamicMixCutCollate()": Target(lambda samples: mixaug.DynamicMixCutCollate(3)(samples), {
            "samples": lambda r: [(torch.rand(3, 8, 8), i % 3) for i in range(r.randint(1, 4))]}),
        "LabelSmoothingCollate": Target(mixaug.LabelSmoothingCollate, {"num_classes": count(1, 9), "smoothing": UNIT}),
        "LabelSmoothingCollate()": Target(lambda samples: mixaug.LabelSmoothingCollate(3)(samples), {
            "samples": lambda r: [(torch.rand(3, 8, 8), i % 3) for i in range(r.randint(1, 4))]}),
        "smooth_labels": Target(smooth_labels, {"labels": LABELS, "num_classes": count(3, 9), "smoothing": UNIT}),
        "sample_boxes": Target(sample_boxes, {
            "batch_size": count(0, 5), "size": one_of((8, 8), [32, 48]), "count": one_of(1, (1, 3)), "area": area,
            "square": FLAG, "generator": generator}),
        "MixLaw": Target(MixLaw, {"n_mix": count(2, 6), "concentration": number(0.1, 4), "per_image": FLAG, "dirichlet": FLAG}),
        "sample_mix": Target(lambda batch_size, n_mix, generator: sample_mix(batch_size, MixLaw(n_mix), generator), {
            "batch_size": count(0, 6), "n_mix": count(2, 5), "generator": generator}),
        "SReLU": Target(mixaug.SReLU, {"max_value": number(0.1, 9), "inplace": FLAG}),
        "DReLU": Target(mixaug.DReLU, {"num_features": one_of(None, 3, (3, 8, 8)), "init": number(0.1, 9), "dim": one_of(1, -3), "inplace": FLAG}),
        "DReLU()": Target(lambda x: mixaug.DReLU(3)(x), {"x": IMAGES}),
        "MixGenerator": Target(MixGenerator, {"channels": count(2, 9)}),
        "replace_relu": Target(replace_relu, {"model": model, "granularity": one_of("channel", "layer", "neuron"),
            "init": number(0.1, 9), "example_input": floats(1, 3, 8, 8), "last": one_of(None, 1)}),
        "add_drelu_head": Target(add_drelu_head, {"model": model, "features": count(1, 9), "init": number(0.1, 9),
            "example_input": floats(1, 3, 8, 8)}),
        "param_groups": Target(param_groups, {"model": lambda r: replace_relu(model(r), example_input=torch.rand(1, 3, 8, 8)),
            "weight_decay": UNIT, "m_lr": UNIT}),
        "set_caps": Target(set_caps, {"model": lambda r: replace_relu(model(r), example_input=torch.rand(1, 3, 8, 8)),
            "images": IMAGES, "quantile": UNIT}),
        "shrink_caps": Target(shrink_caps, {"model": lambda r: replace_relu(model(r), example_input=torch.rand(1, 3, 8, 8)),
            "lam": UNIT, "lr": UNIT}),
        "capped_relu": Target(capped_relu, {"x": IMAGES, "max_value": lambda r: torch.ones(3), "dim": one_of(1, -3)}),
        "EpsSchedule": Target(losses.EpsSchedule, {"eps": UNIT, "epochs": count(1, 9), "start": one_of(None, 0, 0.0), "shape": one_of("linear", "cosine", "step", "constant")}),
        "EpsSchedule()": Target(lambda epoch: losses.EpsSchedule(0.1, 5)(epoch), {"epoch": count(0, 9)}),
        "soft_target_cross_entropy": Target(losses.soft_target_cross_entropy, {
            "logits": LOGITS, "targets": lambda r: r.choice([LABELS, PROBABILITIES])(r),
            "reduction": one_of("mean", "sum", "none"), "check_values": one_of(None, True, False)}),
        "jensen_shannon": Target(losses.jensen_shannon, {"logits_clean": LOGITS, "logits_one": LOGITS, "logits_two": LOGITS}),
        "trades_loss": Target(losses.trades_loss, {"logits_clean": LOGITS, "logits_adv": LOGITS, "labels": LABELS, "beta": number(0, 9)}),
        "AdaptiveLoss.update": Target(lambda accuracy_clean, accuracy_adv: losses.AdaptiveLoss().update(accuracy_clean, accuracy_adv), {
            "accuracy_clean": UNIT, "accuracy_adv": UNIT}),
        "AdaptiveLoss()": Target(lambda logits_clean, logits_adv, labels: losses.AdaptiveLoss()(logits_clean, logits_adv, labels), {
            "logits_clean": LOGITS, "logits_adv": LOGITS, "labels": LABELS}),
        "PGD": attack_with(attacks.PGD, **steps), "CWLinf": attack_with(attacks.CWLinf, **steps),
        "FGSM": attack_with(attacks.FGSM, **steps), "KLPGD": attack_with(attacks.KLPGD, **steps, start=UNIT),
        "FeatureScatter": attack_with(attacks.FeatureScatter, **steps, regularisation=number(0.1, 1), rounds=count(1, 5)),
        "SPSA": attack_with(attacks.SPSA, **steps, samples=count(1, 9), delta=number(0.1, 1)),
        "CWL2": attack_with(attacks.CWL2, **steps, search_steps=count(1, 9), confidence=UNIT, initial_const=number(0.1, 1), abort_early=FLAG),
        "PGD()": Target(lambda model, images, labels: attacks.PGD(steps=1)(model, images, labels), {
            "model": model, "images": IMAGES, "labels": LABELS}),
        "FGSM(targets)": Target(
            lambda model, images, labels, targets: attacks.FGSM(targeted=True)(model, images, labels, targets=targets),
            {"model": model, "images": IMAGES, "labels": LABELS, "targets": LABELS}),
        "two_views": Target(lambda model, images, labels: attacks.two_views(attacks.FGSM(), model, images, labels), {
            "model": model, "images": IMAGES, "labels": LABELS}),
        "transport_cost": Target(transport_cost, {"one": LOGITS, "two": LOGITS, "regularisation": number(0.1, 1), "rounds": count(1, 4)}),
        "margin": Target(attacks.margin, {"logits": LOGITS, "labels": LABELS}),
        "dlr": Target(attacks.dlr, {"logits": LOGITS, "labels": LABELS}),
        "kl": Target(attacks.kl, {"logits": LOGITS, "probabilities": PROBABILITIES}),
        "cross_entropy": Target(attacks.cross_entropy, {"logits": LOGITS, "labels": LABELS}),
        "Thresholds": Target(Thresholds, {"margin": number(0, 0.02), "far": number(0.1, 1), "near_zero": UNIT, "least_images": count(1, 9)}),
        "wilson": Target(wilson, {"successes": count(0, 3), "n": count(3, 9)}),
        "rms": Target(rms, {"confidence": floats(9), "correct": whole(2, 9, dtype=torch.bool), "bin_size": count(1, 9), "variant": one_of("all-bins")}),
        "ece": Target(ece, {"confidence": floats(9), "correct": whole(2, 9, dtype=torch.bool), "bins": count(1, 9)}),
        "reliability_curve": Target(reliability_curve, {"confidence": floats(9), "correct": whole(2, 9, dtype=torch.bool), "bins": count(1, 9)}),
        "pairs": Target(pairs, {"name": one_of("tilt", "scale")}),
        "flips": Target(flips, {"predictions": whole(3, 2, 31), "name": one_of("tilt", "scale")}),
        "corrupt": Target(corrupt, {"images": EITHER_IMAGES, "name": one_of("fog", "contrast"), "severity": count(1, 5), "preset": one_of("cifar", "imagenet"), "generator": generator}),
        "corruption_errors": Target(lambda errors: corruption_errors(errors, {"fog": 0.5}), {"errors": one_of({"fog": 0.3}, {"fog": [0.1, 0.2]})}),
        "sample_patch_order": Target(sample_patch_order, {"batch_size": count(0, 3), "height": count(4, 9), "width": count(4, 9), "patch_size": count(1, 4), "generator": generator}),
        "patch_grid": Target(patch_grid, {"height": count(4, 9), "width": count(4, 9), "patch_size": count(1, 4)}),
        "occlude": Target(occlude, {"images": EITHER_IMAGES, "order": lambda r: sample_patch_order(4, 8, 8, 4), "ratio": UNIT, "patch_size": one_of(4), "fill": one_of(0, 1, (0, 1, 0))}),
        "sample_perturbation": Target(sample_perturbation, {"batch_size": count(0, 3), "generator": generator}),
        "frame": Target(frame, {"images": IMAGES, "name": one_of("tilt"), "t": count(0, 30), "preset": one_of("cifar"), "params": lambda r: sample_perturbation(4, generator(r))}),
        "sample_picks": Target(sample_picks, {"batch": count(0, 4), "size": one_of((8, 8)), "pictures": count(1, 4), "scale": one_of((1.0, 1.5)), "flip": UNIT, "generator": generator}),
        "MixingSet.from_tensor": Target(MixingSet.from_tensor, {"pictures": whole(256, 2, 3, 16, 16, dtype=torch.uint8)}),
        "MixingSet[]": Target(lambda index: bank(random.Random())[index], {"index": one_of(0, -1, slice(0, 1))}),
        "MixingSet.pick": Target(lambda batch, size, scale, flip, generator: bank(random.Random()).pick(batch, size, scale=scale, flip=flip, generator=generator), {
            "batch": count(0, 4), "size": one_of((8, 8), (8, 12)), "scale": one_of((1.0, 1.5)), "flip": UNIT, "generator": generator}),
        "MixingSet.resized": Target(lambda side: bank(random.Random()).resized(side, torch.device("cpu")), {"side": count(1, 16)}),
        "make_pictures": Target(lambda source, count, size, seed: make_pictures(source, count, size, seed=seed), {
            "source": one_of("fractals", "ifs"), "count": count(1, 2), "size": one_of(8), "seed": SEED}),
        "TrainSettings": Target(TrainSettings, {
            "method": one_of("standard", "ipmix"), "epochs": count(1, 9), "batch_size": count(2, 64), "lr": number(0.1, 1),
            "momentum": number(0, 0.9), "weight_decay": UNIT, "seed": SEED, "workers": count(0, 3), "amp": one_of("off"),
            "padding": one_of(None, 4), "jsd_weight": UNIT, "k": count(1, 4), "limit": one_of(None, 9)}),
        "composite_boxes": Target(composite_boxes, {"base": IMAGES, "a": IMAGES, "boxes": lambda r: sample_boxes(4, (8, 8))}),
        "image_operation": Target(ops.image_operation, {"images": BYTES, "op": whole(9, 4), "level": floats(4), "sign": lambda r: torch.ones(4, dtype=torch.int64)}),
    }  # fmt: skip


@dataclass
class Counts:
    """What came of the calls."""

    results: int
    answers: Counter[str]
    unexplained: list[str]


def names_an_argument(message: str, target: Target) -> bool:
    """Whether a word of the message is an argument's name, or that of one that it stands for."""
    words = set(re.findall(r"[A-Za-z_]\w*", message))
    also = {"model", "images", "labels", "dataset", "logits", "targets", "samples", "size", "targeted", "params"}
    return bool(words & (set(target.arguments) | also))


def fuzz(calls: int, seed: int) -> Counts:
    """Makes so many calls, the same ones for the same seed."""
    r = random.Random(seed)
    known = targets()
    counts = Counts(0, Counter(), [])
    torch.manual_seed(seed)
    for _ in range(calls):
        name = r.choice(list(known))
        target = known[name]
        chance = r.choice([0.0, 0.15, 0.5])
        given = {key: hostile(r) if r.random() < chance else make(r) for key, make in target.arguments.items()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.call(**given)
            counts.results += 1
        except ANSWERS as error:
            counts.answers[type(error).__name__] += 1
            if not names_an_argument(str(error), target):
                counts.unexplained.append(f"{name}: {_told(given)} -> {type(error).__name__}: {str(error)[:160]!r}")
        except Exception as error:
            if given.get("check_values") is False and isinstance(error, RuntimeError):  # asked for: torch's own answer
                counts.answers[type(error).__name__] += 1
                continue
            counts.unexplained.append(f"{name}: {_told(given)} -> {type(error).__name__}: {str(error)[:160]!r}")
    return counts


def _told(given: dict[str, Any]) -> str:
    shown = {}
    for name, value in given.items():
        text = (
            kind_of(value)
            if isinstance(value, torch.Tensor | np.ndarray)
            else repr(value)
            if not isinstance(value, int) or abs(value) < 10**40
            else "huge int"
        )
        shown[name] = text[:60]
    return ", ".join(f"{name}={text}" for name, text in shown.items())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = fuzz(options.calls, options.seed)
    answers = ", ".join(f"{count} {kind}" for kind, count in counts.answers.most_common())
    sys.stdout.write(f"{options.calls} calls: {counts.results} results, answered by {answers}\n")
    sys.stdout.write(f"{len(counts.unexplained)} unexplained\n" + "".join(f"  {line}\n" for line in counts.unexplained))
    return 1 if counts.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
