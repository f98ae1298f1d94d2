"""Measuring one model: clean images, corrupted images, attacked images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mixaug.attacks._checks import check_int, check_length, check_model
from mixaug.attacks._state import evaluation_mode
from mixaug.evaluate._choices import (
    AttackCounts,
    Attacks,
    attack_indices,
    chosen_attacks,
    chosen_corruptions,
    describe,
    subset,
)
from mixaug.evaluate._judge import Judge
from mixaug.evaluate._place import environment, home_of, on_device, timed
from mixaug.evaluate._progress import Progress
from mixaug.evaluate.images import LabelledImages, fingerprint
from mixaug.evaluate.outcomes import SEVERITIES, Outcomes
from mixaug.evaluate.report import Report


def evaluate_model(
    model: nn.Module,
    dataset: Any,
    *,
    attacks: Attacks = "pgd",
    corruptions: str | None = "cifar",
    corruption_names: Sequence[str] | None = None,
    eps: float = 8 / 255,
    n_corruption: int | None = None,
    n_attack: AttackCounts = None,
    n_lipschitz: int = 0,
    n_surface: int = 0,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    name: str = "model",
    classes: Sequence[str] | None = None,
    progress: bool = False,
) -> Report:
    """Measures a classifier: clean error, corruption errors, calibration, and error under attack.

    Clean error over all images; errors of the common corruptions at five severities and their mean (Hendrycks,
    Dietterich, ICLR 2019); RMS and ECE of the confidence on the clean images; error under PGD with 20 steps or other
    attacks; if asked for, the local Lipschitz constant and the loss surface.

    Convention: a subset of images (``n_corruption``, ``n_attack``, ...) is drawn from the seed, a smaller one part of a
    larger; subsets, corrupted images and the random starts depend on the seed, the data set and for attacks on
    ``batch_size``, so two models see the same ones. Every attack gets all its images, also those that the model gets
    wrong anyway. Corrupted images are made on the CPU and rounded to 8 bit like the published sets. The model is not
    changed: device, modes, buffers, ``requires_grad`` and ``.grad`` are as before, and no global random state is used
    by it.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, classes); its normalisation is inside.
        dataset: ``(images, labels)`` tensors, an object with these attributes, or a map-style data set; see
            :class:`~mixaug.evaluate.images.LabelledImages`.
        attacks: ``"pgd"`` (default) for PGD with 20 steps of ``eps / 4``; None for none; or several attacks, in a list
            (each with a ``name``) or a mapping from names: callables ``(model, images, labels) -> adversarial images``
            in [0, 1]. Those of :mod:`mixaug.attacks` without a generator get one from the seed.
        corruptions: the preset, ``"cifar"`` (default, for images of about 32 px) or ``"imagenet"`` (224 px); None for
            none.
        corruption_names: which corruptions; default the 15 of the benchmark.
        eps: radius of ``attacks="pgd"`` and of the Lipschitz constant in [0, 1] pixel units, default 8/255.
        n_corruption: number of images to corrupt, default all.
        n_attack: number of images to attack, default all; or a mapping from names of attacks to numbers, for attacks
            that differ in cost.
        n_lipschitz: number of images around which :func:`~mixaug.evaluate.local_lipschitz` is measured, default 0.
        n_surface: number of images whose :func:`~mixaug.evaluate.loss_surface` at radii 0.05, 0.1 and 0.15 is drawn,
            default 0.
        batch_size: images in one pass of the model, default 256.
        seed: seed of subsets, corruptions and attack, default 0.
        device: where the model runs; default where its first parameter is.
        name: the model's name in the report.
        classes: names of the classes, default ``dataset.classes`` if there are any, else numbers.
        progress: show a progress bar; default False.

    Returns:
        A :class:`~mixaug.evaluate.Report`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range; more images asked for than there are; labels above the model's classes; an
            attack that leaves [0, 1] or changes the shape.
        FloatingPointError: logits that are not finite; the message says on which images.
        ModuleNotFoundError: ``progress=True`` without rich installed.

    Note:
        Right or wrong is kept image by image, with the confidence: a report can be compared with another one pairwise
        later, from its JSON.

    Example:
        >>> images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> report = evaluate_model(model, (images, torch.arange(20) % 2), corruptions=None, n_attack=5)
        >>> report.clean_error.n, report.attacks["pgd-20"].accuracy.n
        (20, 5)
    """
    check_model(model)
    check_int("batch_size", batch_size, low=1)
    check_int("seed", seed, low=0)
    check_length("eps", eps)
    check_int("n_lipschitz", n_lipschitz, low=0)
    check_int("n_surface", n_surface, low=0)
    data = LabelledImages(dataset)
    names = chosen_corruptions(corruptions, corruption_names)
    chosen = chosen_attacks(attacks, eps, seed)
    nothing = torch.empty(0, dtype=torch.int64)
    corruption_index = subset("n_corruption", n_corruption, len(data), seed) if names else nothing
    attack_index = attack_indices(n_attack, chosen, len(data), seed)
    lipschitz_index = subset("n_lipschitz", n_lipschitz, len(data), seed) if n_lipschitz else nothing
    surface_index = subset("n_surface", n_surface, len(data), seed) if n_surface else nothing
    if n_lipschitz and eps == 0:
        raise ValueError("eps must be above 0 to measure the Lipschitz constant, got 0")
    home = home_of(model)
    place = home if device is None else torch.device(device)
    batched = [len(data), len(lipschitz_index), *map(len, attack_index.values())]
    work = sum(math.ceil(count / batch_size) for count in batched) + len(names) * len(SEVERITIES) + n_surface
    seconds: dict[str, float] = {}
    with Progress(work, name, progress) as bar, on_device(model, home, place), evaluation_mode(model):
        judge = Judge(model, place, batch_size, data, seed, bar)
        with timed(seconds, "clean"):
            correct, confidence, data_hash = judge.clean()
        with timed(seconds, "corruptions"):
            corrupted = {
                corruption: torch.stack(
                    [
                        judge.corrupted(corruption_index, corruption, severity, corruptions or "")
                        for severity in SEVERITIES
                    ]
                )
                for corruption in names
            }
        attacked = {}
        for attack_name, attack in chosen.items():
            with timed(seconds, attack_name):
                attacked[attack_name] = judge.attacked(attack_index[attack_name], attack_name, attack)
        constants = torch.empty(0)
        if n_lipschitz:
            with timed(seconds, "lipschitz"):
                constants = judge.lipschitz(lipschitz_index, eps)
        if n_surface:
            with timed(seconds, "surfaces"):
                judge.examples.surfaces.extend(judge.surfaces(surface_index))
    outcomes = Outcomes(
        correct,
        confidence,
        corruption_index,
        corrupted,
        attack_index,
        {attack_name: result.right for attack_name, result in attacked.items()},
        {attack_name: result.change for attack_name, result in attacked.items()},
        {attack_name: result.confidence for attack_name, result in attacked.items()},
        lipschitz_index,
        constants,
    )
    settings = {
        "model": type(model).__name__,
        "weights_sha256": fingerprint(dict(model.state_dict())),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_classes": judge.num_classes,
        "data_sha256": data_hash,
        "n_clean": len(data),
        "n_corruption": len(corruption_index),
        "n_attack": {attack_name: len(index) for attack_name, index in attack_index.items()},
        "n_lipschitz": n_lipschitz,
        "n_surface": n_surface,
        "preset": corruptions,
        "corruptions": list(names),
        "eps": float(eps),
        "attacks": {attack_name: describe(attack) for attack_name, attack in chosen.items()},
        "batch_size": batch_size,
        "seed": seed,
        "device": str(place),
    }
    if classes is None:
        classes = getattr(dataset, "classes", None)
    class_names = None if classes is None else [str(label) for label in classes]
    return Report(name, outcomes, settings, environment(place), seconds, class_names, judge.examples)
