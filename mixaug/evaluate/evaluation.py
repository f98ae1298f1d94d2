"""Measuring one model: clean, corrupted, perturbed, hidden and attacked images, and whether robustness is real."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_flag, check_int, check_length, check_seed, optional_import
from mixaug._model_state import bare, check_logits, evaluation_mode, home_of
from mixaug._pictures import as_float
from mixaug.evaluate.audit import Thresholds, audit_pieces
from mixaug.evaluate.audit.attacks import left_as_it_was
from mixaug.evaluate.images import LabelledImages, fingerprint, of_classes
from mixaug.evaluate.journal import Progress, check_writable
from mixaug.evaluate.measures import all_measures
from mixaug.evaluate.parts import Conditions, measure_parts
from mixaug.evaluate.plan import (
    AttackCounts,
    Attacks,
    check_set,
    chosen_corruptions,
    describe,
    expected_names,
    planned,
)
from mixaug.evaluate.report.report import Report
from mixaug.evaluate.runner import Runner, expects_normalised
from mixaug.evaluate.subject import cut_off, environment, on_device, subject_of

if TYPE_CHECKING:
    from mixaug.evaluate.corruptions.sets import CorruptedSet


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
    measures: Mapping[str, int | None] | None = None,
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
    larger. Subsets and corrupted images depend on the seed and the data set alone, so two models see the same ones;
    random starts also on ``batch_size`` and on which images the model gets right. An attack gets those of its images
    that the model gets right; the others count as wrong under it. No attack gets what another one left (but AutoAttack,
    inside). Corrupted images are made on the CPU and rounded to 8 bit like the published sets. A model that draws
    random numbers draws the same ones each time. The model is not changed: device, modes, buffers, ``requires_grad``,
    ``.grad`` and the global random states are as before, also after an error.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, classes); its normalisation is inside.
            A module; or an ONNX Runtime session, or a function: these are measured by all that needs no gradient, and
            the report says what was left out.
        dataset: ``(images, labels)`` tensors or NumPy arrays; a map-style data set, whose items are asked for whatever
            its attributes are called; a ``DataLoader``; an ``IterableDataset``, a list or a generator of items or
            batches. Items and batches are ``(images, labels)``, or mappings as those of Hugging Face. What each may
            hold: :class:`~mixaug.evaluate.images.LabelledImages`. One with ``model_classes``, such as
            :class:`~mixaug.evaluate.ClassSubsetFolder` (also in a ``DataLoader`` or a ``Subset``), is measured on the
            logits of these classes alone.
        attacks: ``"quick"`` (default), ``"standard"``, ``"autoattack"`` or ``"pgd"``, see
            :func:`~mixaug.evaluate.plan.preset_attacks`; None for none; or several attacks, in a list (each
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
        n_curve: number of images of the accuracy against the radius, default 100 for ``"quick"``, ``"standard"`` and
            ``"autoattack"``, else 0.
        n_lipschitz: number of images around which :func:`~mixaug.evaluate.local_lipschitz` is measured.
        n_surface: number of images whose :func:`~mixaug.evaluate.loss_surface` at radii 0.05, 0.1 and 0.15 is drawn.
        n_flips: number of images of the perturbation sequences, see :func:`~mixaug.evaluate.flip_rates`.
        n_occlusion: number of images of :func:`~mixaug.evaluate.occlusion_curve`.
        n_features: number of images of the map of the features, see :func:`~mixaug.evaluate.feature_map`.
        n_maps: number of images with :func:`~mixaug.evaluate.class_activation_maps`.
        measures: numbers of images of measures by their names, such as ``{"occlusion": 100}`` for ``n_occlusion=100``:
            for those that have no argument of their own; default none.
        thresholds: of the audit, default :class:`~mixaug.evaluate.audit.Thresholds` as it is.
        batch_size: images in one pass of the model, default 256.
        seed: seed of subsets, corruptions and attacks, default 0.
        device: where the model runs; default where its first parameter is.
        name: the model's name in the report.
        classes: names of the classes, default ``dataset.classes`` if that is a list or tuple of names, else numbers.
        state: a folder in which finished pieces are kept: the same call after a kill goes on there. Attacks that are
            not of this package, or have a generator or an objective of one's own, are run again. It is not emptied: see
            :func:`~mixaug.evaluate.clear_state`. Default None.
        progress: show a progress bar, on a terminal; default False.

    Returns:
        A :class:`~mixaug.evaluate.Report`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; more images asked for than there are; labels above the model's classes; an
            attack that leaves [0, 1] or changes the shape; a folder that cannot be written into.
        FloatingPointError: logits that are not finite; the message says on which images.
        ModuleNotFoundError: an attack, the map of the features or ``progress=True`` needs an optional library; the
            message says which, and the command that installs it.

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
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    seed = check_seed("seed", seed)
    eps = check_length("eps", eps)
    audit = check_flag("audit", audit)
    everything = check_flag("everything", everything)
    if not isinstance(thresholds, Thresholds | None):
        raise TypeError(f"thresholds must be Thresholds or None, got {type(thresholds).__name__}")
    model_classes = of_classes(dataset, "model_classes")
    subject = subject_of(model, model_classes)
    if surrogate is not None:
        if not isinstance(surrogate, nn.Module):
            raise TypeError(f"surrogate must be a torch.nn.Module or None, got {type(surrogate).__name__}")
        surrogate = subject_of(surrogate, model_classes).module
    data = LabelledImages(dataset)
    names = chosen_corruptions(corruptions, corruption_names, data.channels)
    counts = {
        "audit": n_audit, "curve": n_curve, "lipschitz": n_lipschitz, "surface": n_surface, "flips": n_flips,
        "occlusion": n_occlusion, "features": n_features, "maps": n_maps,
    }  # fmt: skip
    for measure_name, count in _counts(measures).items():
        if counts.get(measure_name) is not None:
            raise ValueError(f"n_{measure_name} must be None where measures has {measure_name!r}, got both")
        counts[measure_name] = count
    plan = planned(data, names, attacks, eps, audit, counts, n_corruption, n_attack, everything, seed)
    if corruptions is not None and not isinstance(corruptions, str):
        check_set(corruptions, data)
    other = None if out_of_distribution is None else _other(out_of_distribution, data)
    if state is not None:
        check_writable("state", state)
    conditions = Conditions(corruptions, other, eps, surrogate, thresholds)
    home = home_of(subject.module)
    if home.type == "meta":
        raise ValueError("model must have weights, got parameters on the device meta, which has none")
    target = home if device is None else torch.device(device)
    with torch.inference_mode(False), on_device(subject.module, home, target), left_as_it_was(subject.module):
        runner = Runner(subject, target, batch_size, data, seed)
        probed = runner.probe()
        class_names = expected_names(of_classes(dataset, "classes") if classes is None else classes, runner.num_classes)
        first = as_float(data.take(torch.arange(min(2, len(data))))[0])
        no_gradient = subject.no_gradient
        if no_gradient is None and plan.needs_gradient:
            no_gradient = cut_off(subject.module, first.to(target))
        plan = plan.possible(runner.num_classes, no_gradient, subject.no_gradient, subject.no_layers)
        if surrogate is not None and len(plan.index["audit"]):
            _check_surrogate(surrogate, first, runner.num_classes)
        for measure in plan.measures:
            if measure.needs_library:
                optional_import(measure.needs_library)
        weights = _weights(model)
        versions = environment(target)
        if state is not None:
            lasting = {name: version for name, version in versions.items() if name not in ("time", "device")}
            runner.keep_in(state, f"{weights} {data.sha256} {seed} {target} {lasting} {probed.tolist()}")
        work = plan.work(len(data), 0 if other is None else len(other), eps, audit_pieces(surrogate is not None))
        with Progress(work, name, progress) as runner.bar:
            with runner.timed("clean"):
                correct, confidence = runner.clean()
            noticed = expects_normalised(runner, correct)
            if noticed:
                warnings.warn(noticed, stacklevel=2)
            outcomes, results, found = measure_parts(runner, plan, conditions, correct, confidence)
            inputs = conditions.inputs(correct, confidence)
            choices = [each.settings(runner, plan.index[each.name], inputs) for each in all_measures() if each.counted]
    settings = {
        "model": subject.name,
        "weights_sha256": weights,
        "parameters": sum(parameter.numel() for parameter in subject.module.parameters()),
        "num_classes": runner.num_classes,
        "data_sha256": data.sha256,
        "n_clean": len(data),
        "n_corruption": len(plan.corruption_index),
        "n_attack": {attack_name: len(index) for attack_name, index in plan.attack_index.items()},
        **{f"n_{part}": len(index) for part, index in plan.index.items()},
        "preset": corruptions if isinstance(corruptions, str | None) else corruptions.description(),
        **{key: value for choice in choices for key, value in choice.items()},
        "corruptions": list(names),
        "eps": float(eps),
        "attacks": {attack_name: describe(attack) for attack_name, attack in plan.attacks.items()},
        "surrogate_sha256": None if surrogate is None else _weights(surrogate),
        "out_of_distribution_sha256": None if other is None else other.sha256,
        "batch_size": batch_size,
        "seed": seed,
        "device": str(target),
    }
    return Report(
        name, outcomes, settings, versions, runner.seconds, class_names, runner.examples, found, plan.left_out,
        [noticed] if noticed else [], results,
    )  # fmt: skip


def _counts(measures: Mapping[str, int | None] | None) -> dict[str, int | None]:
    """The numbers of images by name; whether there are such measures is the plan's to say."""
    if measures is None:
        return {}
    if not isinstance(measures, Mapping):
        raise TypeError(f"measures must be a mapping from names to numbers of images, got {type(measures).__name__}")
    unknown = [name for name in measures if name == "audit" or not isinstance(name, str)]
    if unknown:
        raise ValueError(f"measures must have names of measures, got {unknown[0]!r}")
    return dict(measures)


def _weights(model: Any) -> str | None:
    """The hash of a module's weights; None for what has none that can be read."""
    if not isinstance(model, nn.Module):
        return None
    return fingerprint({name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)})


def _check_surrogate(surrogate: nn.Module, images: Tensor, classes: int) -> None:
    """Raises for a model of other classes, before the attacks that come first."""
    with evaluation_mode(surrogate), torch.no_grad():
        logits = check_logits(bare(surrogate)(images.to(home_of(surrogate))), len(images))
    if logits.shape[1] != classes:
        raise ValueError(f"surrogate must have the model's {classes} classes, got {logits.shape[1]}")


def _other(dataset: Any, data: LabelledImages) -> LabelledImages:
    """The out-of-distribution images."""
    other = LabelledImages(dataset)
    if other.channels != data.channels:
        raise ValueError(
            f"out_of_distribution must have images of {data.channels} channels like the data set, got {other.channels}"
        )
    return other
