"""Running an audit: the model and its images in, the verdict out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_int, check_length, check_seed
from mixaug._model_state import check_batch, check_class_range, check_model, home_of
from mixaug._pictures import as_float
from mixaug.attacks import cross_entropy, margin
from mixaug.attacks.attack import signs_like
from mixaug.evaluate.audit.attacks import (
    ADAPTED,
    BLACK_BOX,
    LARGE,
    REPEATS,
    WHITE_BOX,
    AttackSettings,
    AuditedModel,
    attacked,
    left_as_it_was,
)
from mixaug.evaluate.audit.result import Audit, Thresholds
from mixaug.evaluate.audit.rules import Evidence, all_checks, verdict_of
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.journal import Progress
from mixaug.evaluate.seeds import subset
from mixaug.evaluate.subject import on_device

#: Computes tensors under a name, or gives what was computed under it before.
Keep = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]

# Below this median gap between the two largest logits the softmax is flat; trained models have 1 to 2 here. The
# cross-entropy of logits / 1000 pushes all other classes alike, and leaves 4 to 9 points more than the margin does.
_FLAT = 0.5
#: The further radii.
CURVE = ("radius-half", "radius-double", "radius-large")


class AuditRun:
    """One audit: which pieces are run depends on what the ones before left."""

    def __init__(
        self,
        audited: AuditedModel,
        settings: AttackSettings,
        thresholds: Thresholds,
        keep: Keep | None,
        advance: Callable[[str], None] | None,
    ) -> None:
        self._audited = audited
        self._settings = settings
        self._thresholds = thresholds
        self._keep = keep
        self._advance = advance
        self._right: dict[str, Tensor] = {}
        self._confidence: dict[str, Tensor] = {}
        self._measures: dict[str, Tensor] = {}
        self._left_out: dict[str, str] = {}
        self._classes = 0

    def audit(self) -> Audit:
        """Runs what is to be run, and applies the rules."""
        self._probe()
        evidence = Evidence(
            self._right, self._measures, self._left_out, self._settings.eps, self._thresholds, self._audited.seed
        )
        self._attack(WHITE_BOX, evidence.too_few)
        why = evidence.nothing_left
        self._attack((*BLACK_BOX, "noise"), why)
        if self._settings.surrogate is None:
            self._left_out["transfer"] = "No surrogate was given."
        else:
            self._attack(("transfer",), why)
        steady = None if self._audited.repeats > 1 else "Equal calls give equal logits: there is nothing to average."
        self._attack(("averaged",), why or steady)
        self._attack(("radius-half",), why)
        large = f"The radius is {LARGE} or more by itself." if self._settings.eps >= LARGE else None
        above = f"Twice the radius is {LARGE} or more." if 2 * self._settings.eps >= LARGE else None
        self._attack(("radius-double",), why or above)
        self._attack(("radius-large", "grey"), why or large)
        checks = all_checks(evidence)
        return Audit(
            checks=checks,
            verdict=verdict_of(checks, evidence),
            eps=self._settings.eps,
            right=self._right,
            confidence=self._confidence,
            measures=self._measures,
            left_out=self._left_out,
            thresholds=self._thresholds,
            settings={
                "seed": self._audited.seed,
                "square_queries": self._settings.square_queries,
                "draws": self._settings.draws,
                "classes": self._classes,
                "repeats": self._audited.repeats,
                "gradient": not self._audited.model.cut_off,
            },
        )

    def _probe(self) -> None:
        """Clean images, equal calls, gradients."""
        audited = self._audited
        self._classes = audited.logits(audited.images[:1]).shape[1]
        check_class_range("labels", audited.labels, self._classes)
        if self._classes < 2:
            raise ValueError(f"model must have 2 classes or more to be attacked, got logits of {self._classes}")
        audited.find_cut()
        clean = self._computed("clean", self._clean)
        if bool(clean["changed"].any()):
            audited.repeats = REPEATS
        self._right["clean"], self._confidence["clean"] = clean["right"], clean["confidence"]
        self._measures |= {name: clean[name] for name in ("changed", "turned", "gap")}
        gap = float(clean["gap"].median())
        if 0 < gap < _FLAT:
            self._settings = dataclasses.replace(self._settings, stretch=1 / gap)
        self._measures |= self._computed("gradients", self._gradients)

    def _attack(self, names: tuple[str, ...], why: str | None) -> None:
        """Runs attacks, or notes why not."""
        for name in names:
            reason = why or self._why_not(name)
            if reason:
                self._left_out[name] = reason
                self._done(name)
                continue
            found = self._computed(
                name,
                lambda name=name: attacked(self._audited, name, self._settings, self._right["clean"]),  # type: ignore[misc]
            )
            self._right[name], self._confidence[name] = found["right"], found["confidence"]

    def _why_not(self, name: str) -> str | None:
        if name in ADAPTED and not self._settings.installed:
            return f"{name} needs pyautoattack: pip install 'mixaug[attacks]'."
        if name == "pgd-stretched" and self._settings.stretch == 1:
            return "The logits are not flat: there is nothing to stretch."
        if name == "apgd-dlr" and self._classes < 3:
            return f"APGD-DLR needs 3 classes or more, and there are {self._classes}."
        return None

    def _computed(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        found = compute() if self._keep is None else self._keep(f"audit {name}", compute)
        self._done(name)
        return found

    def _done(self, name: str) -> None:
        if self._advance is not None:
            self._advance(name)

    def _clean(self) -> dict[str, Tensor]:
        audited = self._audited
        with audited.drawing("clean"):
            changed, turned = audited.differences()
            audited.repeats = REPEATS if bool(changed.any()) else 1
            right, confidence = audited.scored(audited.images, audited.labels)
            two = audited.logits(audited.images).topk(2, 1).values
        gap = (two[:, 0] - two[:, 1]).cpu()
        return {"right": right, "confidence": confidence, "changed": changed, "turned": turned, "gap": gap}

    def _gradients(self) -> dict[str, Tensor]:
        """Where there is no gradient, and how far it turns a quarter of the radius away."""
        audited = self._audited
        images, labels = audited.images, audited.labels
        with audited.drawing("gradients") as generator:
            here = audited.gradients(images, labels, margin)
            near = (images + self._settings.eps / 4 * signs_like(images, generator)).clamp(0, 1)
            there = audited.gradients(near, labels, margin)
            entropy = audited.gradients(images, labels, cross_entropy)
        nothing = [(each == 0).flatten(1).all(1) for each in (here, there, entropy)]
        cosine = nn.functional.cosine_similarity(_unit(here), _unit(there), dim=1)
        cosine[nothing[0] | nothing[1]] = torch.nan
        return {"zero-ce": nothing[2].cpu(), "zero-margin": nothing[0].cpu(), "cosine": cosine.float().cpu()}


def _unit(gradient: Tensor) -> Tensor:
    """Scaled to a largest value of 1: the squares of small gradients would underflow."""
    flat = gradient.flatten(1).double()
    return flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-300)


_DEFAULT = Thresholds()


def audit_pieces(surrogate: bool) -> list[str]:
    """The pieces of work of an audit, each of which is one step of progress, whether it is run or left out.

    Args:
        surrogate: whether there is one.

    Example:
        >>> audit_pieces(surrogate=False)[:3], len(audit_pieces(surrogate=True)) - len(audit_pieces(surrogate=False))
        (['clean', 'gradients', 'fgsm'], 1)
    """
    transfer = ("transfer",) if surrogate else ()
    return ["clean", "gradients", *WHITE_BOX, *BLACK_BOX, "noise", *transfer, "averaged", *CURVE, "grey"]


def audit_model(
    model: nn.Module,
    dataset: Any,
    eps: float = 8 / 255,
    *,
    n: int | None = 200,
    surrogate: nn.Module | None = None,
    thresholds: Thresholds = _DEFAULT,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    square_queries: int = 1000,
    draws: int = 8,
    progress: bool = False,
    keep: Keep | None = None,
    advance: Callable[[str], None] | None = None,
) -> Audit:
    """Whether a model's robustness is real or masked: gradient attacks against attacks that see around them.

    After the checklists of Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018
    (arXiv:1802.00420) and Carlini et al., "On evaluating adversarial robustness", 2019 (arXiv:1902.06705).

    Convention: every attack starts from all images that the model gets right; none gets only what another left. An
    accuracy is over all n images. A model that draws random numbers is asked four times about each image, and is right
    if it is right every time. Masked are robustnesses, not models: an attack of another kind (or another loss) leaves
    less than the gradient attack, beyond the margin and the paired bootstrap interval; where the gradient attack leaves
    nothing there is nothing to mask.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, classes); its normalisation is inside.
        dataset: ``(images, labels)``, a map-style data set, a ``DataLoader`` or an iterable of batches, as
            :class:`~mixaug.evaluate.images.LabelledImages` takes it.
        eps: l-infinity radius in [0, 1] pixel units, above 0, default 8/255.
        n: number of images drawn from the seed, default 200 (all of a smaller data set); None for all.
        surrogate: a model trained on such data whose adversarial images are tried on this one; default none.
        thresholds: limits of the rules.
        batch_size: most images in one pass, default 256.
        seed: of images, attacks and bootstrap, default 0.
        device: where the model runs; default where its first parameter is.
        square_queries: of the Square attack for each image, default 1,000.
        draws: forwards that a gradient is averaged over if the model draws random numbers, default 8.
        progress: show a progress bar; default False.
        keep: ``keep(name, compute)`` gives ``compute()``, or what it gave before: a killed audit continues. Default
            computes all.
        advance: told the name of each piece of :func:`audit_pieces` that is done.

    Returns:
        An :class:`Audit`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range, ``eps`` 0; a model of one class, or labels beyond its classes.
        FloatingPointError: logits that are not finite.
        ModuleNotFoundError: ``progress=True`` without rich installed.

    Note:
        The model is left as it was: modes, buffers, gradients, device and every global random state, also after an
        error. APGD and Square need ``pyautoattack``; without it they are left out, and the checks say so.

    Example:
        >>> images, labels = torch.rand(30, 1, 4, 4), torch.arange(30) % 2
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> audit = audit_model(model, (images, labels), n=20, square_queries=10)
        >>> audit.n, len(audit.checks)
        (20, 12)
    """
    check_model(model)
    seed = check_seed("seed", seed)
    data = LabelledImages(dataset)
    if n is not None:
        n = check_int("n", n, 1)
        n = min(n, len(data))
    images, labels = data.take(subset("n", n, len(data), seed))
    home = home_of(model)
    target = home if device is None else torch.device(device)
    with (
        Progress(len(audit_pieces(surrogate is not None)), "audit", progress) as bar,
        on_device(model, home, target),
    ):

        def step(name: str) -> None:
            bar.advance(name)
            if advance is not None:
                advance(name)

        return audit_images(
            model,
            as_float(images).to(target),
            labels.to(target),
            eps,
            surrogate=surrogate,
            thresholds=thresholds,
            seed=seed,
            batch_size=batch_size,
            square_queries=square_queries,
            draws=draws,
            keep=keep,
            advance=step,
        )


def audit_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    surrogate: nn.Module | None = None,
    thresholds: Thresholds = _DEFAULT,
    seed: int = 0,
    batch_size: int = 256,
    square_queries: int = 1000,
    draws: int = 8,
    keep: Keep | None = None,
    advance: Callable[[str], None] | None = None,
) -> Audit:
    """:func:`audit_model` on given images, all of them, where they are.

    Args:
        model, eps, thresholds, seed, batch_size, square_queries, draws, keep, advance: as :func:`audit_model`.
        surrogate: as there; moved to the images' device meanwhile.
        images: on the model's device.
        labels: their classes.

    Shape:
        images: (n, C, H, W) float32 in [0, 1]; labels: (n,) int64.

    Returns:
        An :class:`Audit`.

    Raises:
        TypeError, ValueError, FloatingPointError: as :func:`audit_model`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> audit_images(model, torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 0]), eps=0.1).verdict[:10]
        'No verdict'
    """
    _check_arguments(model, images, labels, eps, surrogate, thresholds, seed, batch_size)
    square_queries = check_int("square_queries", square_queries, 1)
    draws = check_int("draws", draws, 2)
    settings = AttackSettings(float(eps), square_queries, draws, surrogate)
    with ExitStack() as guards:
        guards.enter_context(left_as_it_was(model))
        if surrogate is not None:
            guards.enter_context(on_device(surrogate, home_of(surrogate), images.device))
            guards.enter_context(left_as_it_was(surrogate))
        audited = AuditedModel(model, images, labels, seed, batch_size)
        return AuditRun(audited, settings, thresholds, keep, advance).audit()


def _check_arguments(
    model: Any,
    images: Any,
    labels: Any,
    eps: Any,
    surrogate: Any,
    thresholds: Any,
    seed: Any,
    batch_size: Any,
) -> None:
    check_batch(model, images, labels)
    if labels.ndim != 1:
        raise TypeError(f"labels must be class indices of shape (n,), got {tuple(labels.shape)}")
    if len(images) == 0:
        raise ValueError("images must be 1 or more, got 0")
    eps = check_length("eps", eps)
    if eps == 0:
        raise ValueError("eps must be above 0 to look for masking, got 0")
    if surrogate is not None and not isinstance(surrogate, nn.Module):
        raise TypeError(f"surrogate must be a torch.nn.Module or None, got {type(surrogate).__name__}")
    if not isinstance(thresholds, Thresholds):
        raise TypeError(f"thresholds must be Thresholds, got {type(thresholds).__name__}")
    seed = check_seed("seed", seed)
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
