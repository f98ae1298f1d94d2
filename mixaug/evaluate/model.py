"""Measuring one model: clean, corrupted, perturbed, hidden and attacked images, and whether robustness is real."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug.attacks._checks import check_flag, check_int, check_length, check_model
from mixaug.attacks._state import evaluation_mode
from mixaug.evaluate import _around
from mixaug.evaluate._choices import AttackCounts, Attacks, chosen_corruptions, describe
from mixaug.evaluate._journal import Journal, check_writable
from mixaug.evaluate._judge import Judge
from mixaug.evaluate._normalised import expects_normalised
from mixaug.evaluate._parts import audit_of, feature_points, flips_of, occlusion_of, steps_of
from mixaug.evaluate._place import environment, home_of, on_device, timed
from mixaug.evaluate._plan import Plan, check_set, expected_names, planned
from mixaug.evaluate._progress import Progress
from mixaug.evaluate._subject import subject_of
from mixaug.evaluate.images import LabelledImages, fingerprint
from mixaug.evaluate.outcomes import Examples, Outcomes
from mixaug.evaluate.report import Report

if TYPE_CHECKING:
    from mixaug.evaluate.audit import Audit, Thresholds
    from mixaug.evaluate.corrupted_sets import CorruptedSet


def evaluate_model(
    model: Any,
    dataset: Any,
    *,
    attacks: Attacks = "quick",
    corruptions: str | CorruptedSet | None = "cifar",
    audit: bool = True,
    eps: float = 8 / 255,
    surrogate: nn.Module | None = None,
    out_of_distribution: Any = None,
    everything: bool = False,
    corruption_names: Sequence[str] | None = None,
    n_corruption: int | None = None,
    n_attack: AttackCounts = None,
    n_audit: int | None = None,
    n_curve: int | None = None,
    n_lipschitz: int | None = None,
    n_surface: int | None = None,
    n_flips: int | None = None,
    n_occlusion: int | None = None,
    n_features: int | None = None,
    n_maps: int | None = None,
    thresholds: Thresholds | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    name: str = "model",
    classes: Sequence[str] | None = None,
    state: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Report:
    """The safety report of a classifier: its errors on clean, corrupted and attacked images, and whether they are real.

    Clean error over all images; errors of the common corruptions at five severities and their mean (Hendrycks,
    Dietterich, ICLR 2019); calibration on the clean images; accuracy under each attack, and the worst case per image
    over all of them; accuracy against the radius; the masking audit, see :func:`~mixaug.evaluate.audit_model`. If asked
    for: flip rates, occlusion, anomaly detection, the local Lipschitz constant, and pictures of the loss surface, of
    the features and of where the model looks.

    Convention: a subset of images (``n_corruption``, ``n_attack``, ...) is drawn from the seed, a smaller one part of a
    larger; subsets, corrupted images and the random starts depend on the seed, the data set and for attacks on
    ``batch_size``, so two models see the same ones. An attack gets those of its images that the model gets right; the
    others count as wrong under it. No attack gets what another one left (but AutoAttack, inside). Corrupted images are
    made on the CPU and rounded to 8 bit like the published sets. The model is not changed: device, modes, buffers,
    ``requires_grad`` and ``.grad`` are as before, and no global random state is used by it.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, classes); its normalisation is inside.
            A module; or an ONNX Runtime session, or a function: these are measured by all that needs no gradient, and
            the report says what was left out.
        dataset: ``(images, labels)`` tensors, an object with these attributes, or a map-style data set; see
            :class:`~mixaug.evaluate.images.LabelledImages`. One with ``model_classes``, such as
            :class:`~mixaug.evaluate.ClassSubsetFolder`, is measured on the logits of these classes alone.
        attacks: ``"quick"`` (default), ``"standard"``, ``"autoattack"`` or ``"pgd"``, see
            :func:`~mixaug.evaluate.attack_presets.preset_attacks`; None for none; or several attacks, in a list (each
            with a ``name``) or a mapping from names: callables ``(model, images, labels) -> adversarial images`` in
            [0, 1]. Those of :mod:`mixaug.attacks` without a generator get one from the seed.
        corruptions: the preset, ``"cifar"`` (default, for images of about 32 px) or ``"imagenet"`` (224 px); a
            :class:`~mixaug.evaluate.CorruptedSet` of the same images; None for none.
        audit: whether robustness is audited, default True.
        eps: radius of the attacks, the audit, the curve and the Lipschitz constant in [0, 1], default 8/255.
        surrogate: another model, from which the audit transfers attacks; None (default): that check is not run.
        out_of_distribution: another data set: whether the confidence tells its images apart. Its labels are not used.
        everything: measure also the parts whose number of images is None, on their usual number; default False.
        corruption_names: which corruptions; default the 15 of the benchmark.
        n_corruption: number of images to corrupt, default all.
        n_attack: number of images to attack, default 1,000 for ``"quick"``, 500 for ``"standard"`` and
            ``"autoattack"``, else all; or a mapping from names of attacks to numbers.
        n_audit: number of images of the audit, default 200.
        n_curve: number of images of the accuracy against the radius, default 100 for a preset, else 0.
        n_lipschitz: number of images around which :func:`~mixaug.evaluate.local_lipschitz` is measured.
        n_surface: number of images whose :func:`~mixaug.evaluate.loss_surface` at radii 0.05, 0.1 and 0.15 is drawn.
        n_flips: number of images of the perturbation sequences, see :func:`~mixaug.evaluate.flip_rates`.
        n_occlusion: number of images of :func:`~mixaug.evaluate.occlusion_curve`.
        n_features: number of images of the map of the features, see :func:`~mixaug.evaluate.feature_map`.
        n_maps: number of images with :func:`~mixaug.evaluate.class_activation_maps`.
        thresholds: of the audit, default :class:`~mixaug.evaluate.audit.Thresholds` as it is.
        batch_size: images in one pass of the model, default 256.
        seed: seed of subsets, corruptions and attacks, default 0.
        device: where the model runs; default where its first parameter is.
        name: the model's name in the report.
        classes: names of the classes, default ``dataset.classes`` if there are any, else numbers.
        state: a folder in which finished pieces are kept: the same call after a kill goes on there. Attacks that are
            not of this package, or have a generator, are run again. It is not emptied: see
            :func:`~mixaug.evaluate.clear_state`. Default None.
        progress: show a progress bar; default False.

    Returns:
        A :class:`~mixaug.evaluate.Report`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; more images asked for than there are; labels above the model's classes; an
            attack that leaves [0, 1] or changes the shape; a folder that cannot be written into.
        FloatingPointError: logits that are not finite; the message says on which images.
        ModuleNotFoundError: an attack or ``progress=True`` needs an optional library; the message says which.

    Note:
        Right or wrong is kept image by image, with the confidence: a report can be compared with another one pairwise
        later, from its JSON. A model that does much better on normalised images is warned of.

    Example:
        >>> images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> settings = {"attacks": "pgd", "corruptions": None, "audit": False}
        >>> report = evaluate_model(model, (images, torch.arange(20) % 2), **settings, n_attack=5)
        >>> report.clean_error.n, report.attacks["pgd-20"].accuracy.n
        (20, 5)
    """
    check_int("batch_size", batch_size, low=1)
    check_int("seed", seed, low=0)
    check_length("eps", eps)
    check_flag("audit", audit)
    check_flag("everything", everything)
    if surrogate is not None:
        check_model(surrogate)
    subject = subject_of(model, getattr(dataset, "model_classes", None))
    data = LabelledImages(dataset)
    names = chosen_corruptions(corruptions, corruption_names, data.channels)
    counts = {
        "n_audit": n_audit, "n_curve": n_curve, "n_lipschitz": n_lipschitz, "n_surface": n_surface, "n_flips": n_flips,
        "n_occlusion": n_occlusion, "n_features": n_features, "n_maps": n_maps,
    }  # fmt: skip
    plan = planned(subject, data, names, attacks, eps, audit, counts, n_corruption, n_attack, everything, seed)
    source = "cifar" if corruptions is None else corruptions
    if not isinstance(source, str):
        check_set(source, data)
    other = None if out_of_distribution is None else _other(out_of_distribution, data)
    if state is not None:
        check_writable("state", state)
    home = home_of(subject.module)
    place = home if device is None else torch.device(device)
    seconds: dict[str, float] = {}
    work = plan.pieces(len(data), batch_size, 0 if other is None else len(other))
    work += steps_of(plan, batch_size, surrogate is not None)
    with Progress(work, name, progress) as bar, on_device(subject.module, home, place), evaluation_mode(subject.module):
        judge = Judge(subject, place, batch_size, data, seed, bar)
        probed = judge.probe()
        class_names = expected_names(
            getattr(dataset, "classes", None) if classes is None else classes, judge.num_classes
        )
        weights = fingerprint(dict(model.state_dict())) if isinstance(model, nn.Module) else None
        judge.journal = Journal(state, f"{weights} {data.sha256} {seed} {probed.tolist() if state else None}")
        with timed(seconds, "clean"):
            correct, confidence = judge.clean()
        noticed = expects_normalised(judge, correct)
        if noticed:
            warnings.warn(noticed, stacklevel=2)
        parts, report_audit = _measured(
            judge, plan, source, other, eps, surrogate, thresholds, correct, confidence, seconds
        )
    settings = {
        "model": subject.name,
        "weights_sha256": weights,
        "parameters": sum(parameter.numel() for parameter in subject.module.parameters()),
        "num_classes": judge.num_classes,
        "data_sha256": data.sha256,
        "n_clean": len(data),
        "n_corruption": len(plan.corruption_index),
        "n_attack": {attack_name: len(index) for attack_name, index in plan.attack_index.items()},
        **{size: len(index) for size, index in plan.index.items()},
        "preset": corruptions if isinstance(corruptions, str | None) else corruptions.description(),
        "corruptions": list(names),
        "eps": float(eps),
        "attacks": {attack_name: describe(attack) for attack_name, attack in plan.attacks.items()},
        "out_of_distribution_sha256": None if other is None else other.sha256,
        "batch_size": batch_size,
        "seed": seed,
        "device": str(place),
    }
    return Report(
        name, Outcomes(correct, confidence, **parts), settings, environment(place), seconds, class_names, judge.examples, report_audit,
        plan.left_out, [noticed] if noticed else [],
    )  # fmt: skip


def _measured(
    judge: Judge,
    plan: Plan,
    source: str | CorruptedSet,
    other: LabelledImages | None,
    eps: float,
    surrogate: nn.Module | None,
    thresholds: Thresholds | None,
    correct: Tensor,
    confidence: Tensor,
    seconds: dict[str, float],
) -> tuple[dict[str, Any], Audit | None]:
    """Part after part, as fields of :class:`Outcomes`; pictures go to ``judge.examples``."""
    index = plan.index
    with timed(seconds, "corruptions"):
        corrupted = {name: judge.corrupted(plan.corruption_index, name, source) for name in plan.corruptions}
    attacked: dict[str, dict[str, Tensor]] = {}
    for attack_name, attack in plan.attacks.items():
        with timed(seconds, attack_name):
            positions = plan.attack_index[attack_name]
            attacked[attack_name] = judge.attacked(positions, attack_name, attack, correct, confidence)
    parts: dict[str, Any] = {
        "corruption_index": plan.corruption_index,
        "corrupted": corrupted,
        "attack_index": plan.attack_index,
        "attacked": {name: result["right"] for name, result in attacked.items()},
        "attack_change": {name: float(result["change"]) for name, result in attacked.items()},
        "attack_confidence": {name: result["confidence"] for name, result in attacked.items()},
    }
    examples: dict[str, Any] = {}
    if len(index["n_curve"]):
        with timed(seconds, "curve"):
            curve = _around.radius_curve(judge, index["n_curve"], eps, correct)
            parts |= {"curve_index": index["n_curve"], "curve": curve}
    if len(index["n_lipschitz"]):
        with timed(seconds, "lipschitz"):
            constants = _around.lipschitz(judge, index["n_lipschitz"], eps)
            parts |= {"lipschitz_index": index["n_lipschitz"], "lipschitz": constants}
    if len(index["n_flips"]):
        with timed(seconds, "flips"):
            preset = source if isinstance(source, str) else "cifar"
            parts |= {"flip_index": index["n_flips"], "flips": flips_of(judge, index["n_flips"], preset)}
    if len(index["n_occlusion"]):
        with timed(seconds, "occlusion"):
            parts |= {"occlusion_index": index["n_occlusion"], "occlusion": occlusion_of(judge, index["n_occlusion"])}
    if other is not None:
        with timed(seconds, "ood"):
            parts["ood_confidence"] = judge.other(other)
    audit = None
    if len(index["n_audit"]):
        with timed(seconds, "audit"):
            audit = audit_of(judge, index["n_audit"], eps, surrogate, thresholds)
    if len(index["n_surface"]):
        with timed(seconds, "surfaces"):
            examples["surfaces"] = _around.surfaces(judge, index["n_surface"])
    if len(index["n_features"]):
        with timed(seconds, "features"):
            points, reason = feature_points(judge, index["n_features"])
            examples["features"] = points
            if reason:
                plan.left_out["features"] = reason
    if len(index["n_maps"]):
        with timed(seconds, "maps"):
            examples["maps"] = _around.maps(judge, index["n_maps"])
    judge.examples = Examples(judge.examples.corrupted, judge.examples.adversarial, **examples)
    return parts, audit


def _other(dataset: Any, data: LabelledImages) -> LabelledImages:
    """The out-of-distribution images."""
    other = LabelledImages(dataset)
    if other.channels != data.channels:
        raise ValueError(
            f"out_of_distribution must have images of {data.channels} channels like the data set, got {other.channels}"
        )
    return other
