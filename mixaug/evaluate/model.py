"""Measuring one model: clean images, corrupted images, attacked images."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from mixaug.attacks import PGD
from mixaug.attacks._checks import check_int, check_number
from mixaug.attacks._state import evaluation_mode
from mixaug.evaluate._progress import Progress
from mixaug.evaluate.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from mixaug.evaluate.images import LabelledImages, as_bytes, as_float, fingerprint
from mixaug.evaluate.outcomes import SEVERITIES, AdversarialExample, CorruptedExample, Examples, Outcomes
from mixaug.evaluate.report import Report

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]

# Images are corrupted in blocks of this size whatever the model's batch size is: the same seed gives the same pictures.
CORRUPTION_BLOCK = 256
_SHOWN_SEVERITY = 3
_SHOWN_ATTACKED = 4


def evaluate_model(
    model: nn.Module,
    dataset: Any,
    *,
    attacks: str | Mapping[str, Attack] | None = "pgd",
    corruptions: str | None = "cifar",
    corruption_names: Sequence[str] | None = None,
    eps: float = 8 / 255,
    n_corruption: int | None = None,
    n_attack: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    name: str = "model",
    classes: Sequence[str] | None = None,
    progress: bool = False,
) -> Report:
    """Measures a classifier: clean error, corruption errors, calibration, and error under attack.

    Clean error over all images; errors of the common corruptions at five severities and their mean (Hendrycks,
    Dietterich, ICLR 2019); RMS and ECE of the confidence on the clean images; error under PGD with 20 steps.

    Convention: a subset of images (``n_corruption``, ``n_attack``) is drawn from the seed; subsets, corrupted images
    and the attack's random starts depend on the seed and the data set alone, so two models see the same ones. Corrupted
    images are made on the CPU and rounded to 8 bit like the published sets. The model is not changed: device, modes,
    buffers, ``requires_grad`` and ``.grad`` are as before, and no global random state is used by it.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, classes); its normalisation is inside.
        dataset: ``(images, labels)`` tensors, an object with these attributes, or a map-style data set; see
            :class:`~mixaug.evaluate.images.LabelledImages`.
        attacks: ``"pgd"`` (default) for PGD with 20 steps of ``eps / 4``; None for none; or names to callables
            ``(model, images, labels) -> adversarial images`` in [0, 1].
        corruptions: the preset, ``"cifar"`` (default, for images of about 32 px) or ``"imagenet"`` (224 px); None for
            none.
        corruption_names: which corruptions; default the 15 of the benchmark.
        eps: radius of ``attacks="pgd"`` in [0, 1] pixel units, default 8/255.
        n_corruption: number of images to corrupt, default all.
        n_attack: number of images to attack, default all.
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
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_int("batch_size", batch_size, low=1)
    check_int("seed", seed, low=0)
    check_number("eps", eps, low=0.0, high=1.0)
    data = LabelledImages(dataset)
    names = _chosen(corruptions, corruption_names)
    chosen_attacks = _attacks(attacks, eps, seed)
    corruption_index = _subset("n_corruption", n_corruption, len(data), seed) if names else torch.empty(0).long()
    attack_index = _subset("n_attack", n_attack, len(data), seed) if chosen_attacks else torch.empty(0).long()
    home = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    place = home if device is None else torch.device(device)
    work = [math.ceil(len(data) / batch_size), len(names) * len(SEVERITIES), 0]
    work[2] = len(chosen_attacks) * math.ceil(len(attack_index) / batch_size)
    seconds: dict[str, float] = {}
    examples = Examples()
    with Progress(sum(work), name, progress) as bar, _on_device(model, home, place), evaluation_mode(model):
        judge = _Judge(model, place, batch_size)
        with _timed(seconds, "clean"):
            correct, confidence, data_hash = _clean(judge, data, bar)
        with _timed(seconds, "corruptions"):
            corrupted = {
                corruption: torch.stack(
                    [
                        _corrupted(
                            judge, data, corruption_index, corruption, severity, corruptions or "", seed, bar, examples
                        )
                        for severity in SEVERITIES
                    ]
                )
                for corruption in names
            }
        attacked, changes = {}, {}
        for attack_name, attack in chosen_attacks.items():
            with _timed(seconds, attack_name):
                attacked[attack_name], changes[attack_name] = _attacked(
                    judge, data, attack_index, attack_name, attack, bar, examples
                )
    outcomes = Outcomes(correct, confidence, corruption_index, corrupted, attack_index, attacked, changes)
    settings = {
        "model": type(model).__name__,
        "weights_sha256": fingerprint(dict(model.state_dict())),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_classes": judge.num_classes,
        "data_sha256": data_hash,
        "n_clean": len(data),
        "n_corruption": len(corruption_index),
        "n_attack": len(attack_index),
        "preset": corruptions,
        "corruptions": list(names),
        "eps": float(eps),
        "attacks": {attack_name: _describe(attack) for attack_name, attack in chosen_attacks.items()},
        "batch_size": batch_size,
        "seed": seed,
        "device": str(place),
    }
    if classes is None:
        classes = getattr(dataset, "classes", None)
    class_names = None if classes is None else [str(label) for label in classes]
    return Report(name, outcomes, settings, _environment(place), seconds, class_names, examples)


class _Judge:
    """Runs the model on images and says which are right, with the confidence."""

    def __init__(self, model: nn.Module, device: torch.device, batch_size: int) -> None:
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.num_classes = 0

    def __call__(self, images: Tensor, labels: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor]:
        """Right or wrong, confidence and prediction of float32 images in [0, 1], on the CPU."""
        predictions, confidences = [], []
        for batch in images.split(self.batch_size):
            with torch.no_grad():
                logits = self.model(batch.to(self.device))
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(batch):
                got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"model must return logits of shape ({len(batch)}, classes), got {got}")
            confidence, predicted = logits.float().softmax(1).max(1)
            if not bool(confidence.isfinite().all()):  # a NaN or an infinite logit makes the confidence NaN
                raise FloatingPointError(f"the model's logits are not finite on {what}")
            self.num_classes = logits.shape[1]
            predictions.append(predicted.cpu())
            confidences.append(confidence.cpu().clamp(0, 1))
        if int(labels.max()) >= self.num_classes:
            raise ValueError(f"labels must lie below the model's {self.num_classes} classes, got {int(labels.max())}")
        predicted = torch.cat(predictions)
        return predicted == labels, torch.cat(confidences), predicted


def _clean(judge: _Judge, data: LabelledImages, bar: Progress) -> tuple[Tensor, Tensor, str]:
    digest = hashlib.sha256()
    correct, confidence = [], []
    for images, labels in data.blocks(torch.arange(len(data)), judge.batch_size):
        right, sure, _ = judge(as_float(images), labels, "clean images")
        digest.update(images.contiguous().numpy().tobytes())
        digest.update(labels.numpy().tobytes())
        correct.append(right)
        confidence.append(sure)
        bar.advance("clean images")
    digest.update(str(tuple(images.shape[1:])).encode())
    return torch.cat(correct), torch.cat(confidence), digest.hexdigest()


def _corrupted(
    judge: _Judge,
    data: LabelledImages,
    index: Tensor,
    name: str,
    severity: int,
    preset: str,
    seed: int,
    bar: Progress,
    examples: Examples,
) -> Tensor:
    rights = []
    for block, (images, labels) in enumerate(data.blocks(index, CORRUPTION_BLOCK)):
        generator = torch.Generator().manual_seed(_seed(seed, name, severity, block))
        corrupted = corrupt(as_bytes(images), name, severity, preset=preset, generator=generator)
        right, sure, predicted = judge(as_float(corrupted), labels, f"{name} of severity {severity}")
        rights.append(right)
        if block == 0 and severity == _SHOWN_SEVERITY and images.shape[1] in (1, 3):
            at = len(examples.corrupted) % len(images)  # another image for each corruption
            examples.corrupted.append(
                CorruptedExample(
                    name,
                    severity,
                    as_bytes(corrupted[at]).clone(),
                    int(labels[at]),
                    int(predicted[at]),
                    float(sure[at]),
                )
            )
    bar.advance(f"{name.replace('_', ' ')} {severity}")
    return torch.cat(rights)


def _attacked(
    judge: _Judge,
    data: LabelledImages,
    index: Tensor,
    name: str,
    attack: Attack,
    bar: Progress,
    examples: Examples,
) -> tuple[Tensor, float]:
    rights, change = [], 0.0
    for block, (images, labels) in enumerate(data.blocks(index, judge.batch_size)):
        clean = as_float(images)
        with _gradients_kept(judge.model):
            adversarial = attack(judge.model, clean.to(judge.device), labels.to(judge.device))
        adversarial = _checked_adversarial(adversarial, clean, name)
        right, sure, predicted = judge(adversarial, labels, f"images of the attack {name}")
        rights.append(right)
        change = max(change, float((adversarial - clean).abs().max()))
        if block == 0 and images.shape[1] in (1, 3):
            before, sure_before, predicted_before = judge(clean, labels, "clean images")
            # First the images that the attack turned: they show what an attack is.
            order = torch.argsort((before & ~right).int() * 2 + before.int(), descending=True, stable=True)
            for at in order[:_SHOWN_ATTACKED].tolist():
                examples.adversarial.append(
                    AdversarialExample(
                        attack=name,
                        clean=as_bytes(clean[at]).clone(),
                        adversarial=as_bytes(adversarial[at]).clone(),
                        label=int(labels[at]),
                        predicted_clean=int(predicted_before[at]),
                        confidence_clean=float(sure_before[at]),
                        predicted=int(predicted[at]),
                        confidence=float(sure[at]),
                    )
                )
        bar.advance(name)
    return torch.cat(rights), change


def _checked_adversarial(adversarial: Tensor, clean: Tensor, name: str) -> Tensor:
    if not isinstance(adversarial, Tensor) or adversarial.shape != clean.shape:
        got = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
        raise ValueError(f"the attack {name!r} must return images of shape {tuple(clean.shape)}, got {got}")
    adversarial = adversarial.detach().float().cpu()
    low, high = (float(bound) for bound in adversarial.aminmax())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also false for NaN
        raise ValueError(f"the attack {name!r} must return images in [0, 1], got values from {low:g} to {high:g}")
    return adversarial.clamp(0, 1)


def _chosen(preset: str | None, names: Sequence[str] | None) -> tuple[str, ...]:
    if preset is None:
        return ()
    if preset not in ("cifar", "imagenet"):
        raise ValueError(f"corruptions must be 'cifar', 'imagenet' or None, got {preset!r}")
    names = CORRUPTIONS if names is None else tuple(names)
    known = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
    for name in names:
        if name not in known:
            raise ValueError(f"corruption_names must be of {', '.join(known)}; got {name!r}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"corruption_names must be one or more different names, got {list(names)}")
    return tuple(names)


def _attacks(attacks: str | Mapping[str, Attack] | None, eps: float, seed: int) -> dict[str, Attack]:
    if attacks is None:
        return {}
    if isinstance(attacks, Mapping):
        for name, attack in attacks.items():
            if not callable(attack):
                raise TypeError(f"attacks[{name!r}] must be callable, got {type(attack).__name__}")
        return dict(attacks)
    if attacks != "pgd":
        raise ValueError(f"attacks must be 'pgd', None or names to callables, got {attacks!r}")
    generator = torch.Generator().manual_seed(_seed(seed, "pgd"))
    pgd = PGD(eps=eps, step_size=eps / 4, steps=20, generator=generator)
    return {pgd.name: pgd}


def _describe(attack: Attack) -> dict[str, Any]:
    fields = {"kind": getattr(attack, "__name__", type(attack).__name__)}
    if dataclasses.is_dataclass(attack):
        fields |= {
            field.name: getattr(attack, field.name)
            for field in dataclasses.fields(attack)
            if isinstance(getattr(attack, field.name), bool | int | float | str)
        }
    return fields


def _subset(argument: str, count: int | None, total: int, seed: int) -> Tensor:
    if count is None:
        return torch.arange(total)
    check_int(argument, count, low=1)
    if count > total:
        raise ValueError(f"{argument} must be at most the {total} images of the data set, got {count}")
    # One permutation for both: the smaller subset is part of the larger one.
    return torch.randperm(total, generator=torch.Generator().manual_seed(_seed(seed, "subset")))[:count].sort().values


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 3)


@contextmanager
def _on_device(model: nn.Module, home: torch.device, place: torch.device) -> Iterator[None]:
    if place == home:
        yield
        return
    model.to(place)
    try:
        yield
    finally:
        model.to(home)


@contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    """Keeps a foreign attack's ``loss.backward()`` out of the model's own gradients."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def _environment(device: torch.device) -> dict[str, str]:
    import torchvision

    import mixaug

    return {
        "mixaug": mixaug.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
