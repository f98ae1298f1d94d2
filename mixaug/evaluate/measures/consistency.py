"""Consistency: how often a model's prediction changes while a picture changes a little."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from mixaug._checks import MAX_COUNT, check_choice, check_choices, check_int, check_seed
from mixaug._drawing import COLOURS, FigureImage, new_figure, png_of
from mixaug._model_state import bare, check_class_range, check_logits, evaluation_mode, home_of
from mixaug._pictures import as_bytes, as_float
from mixaug.evaluate.corruptions import PRESETS
from mixaug.evaluate.corruptions.perturbations import (
    FRAMES,
    PERTURBATIONS,
    PerturbationParams,
    frame,
    frames,
    sample_perturbation,
)
from mixaug.evaluate.corruptions.tables import corruption_label
from mixaug.evaluate.drawing import grouped
from mixaug.evaluate.encoding import decode_png, encode_png, pack, unpack
from mixaug.evaluate.images import LabelledImages, of_classes
from mixaug.evaluate.intervals import Estimate, bootstrap_means
from mixaug.evaluate.journal import Progress
from mixaug.evaluate.labels import interval_text
from mixaug.evaluate.measure import Drawn, Inputs, Measure, Measured, ModelInfo, ModelRunner, Section
from mixaug.evaluate.seeds import seed_of, subset
from mixaug.evaluate.subject import on_device, subject_of
from mixaug.evaluate.tables import Row, Table, text_table

__all__ = [
    "FlipExample",
    "FlipRates",
    "flip_rates",
    "flips",
    "pairs",
    "sequence_predictions",
]


#: Frames of an example that are kept as pictures.
SHOWN = (0, 6, 12, 18, 24, 30)
_SHOWN_SIDE = 112  # larger pictures are shown smaller: ten sequences of 224 px would be megabytes of a page


@dataclass(frozen=True)
class FlipExample:
    """One sequence and what the model said of each of its frames.

    Args:
        perturbation: its name.
        label: the image's class.
        predictions: (31,) int64, the predicted class of each frame.
        shown: the frames that are kept as pictures.
        images: uint8 (len(shown), C, H, W), these frames, at most 112 px a side.

    Example:
        >>> FlipExample("scale", 3, torch.tensor([3] * 30 + [4]), (0,), torch.zeros(1, 1, 4, 4).byte()).flips
        1
    """

    perturbation: str
    label: int
    predictions: Tensor
    shown: tuple[int, ...]
    images: Tensor

    @property
    def flips(self) -> int:
        """How often the prediction changes."""
        return int(flips(self.predictions[None], self.perturbation))

    def to_json(self) -> dict[str, Any]:
        """JSON values; pictures as lossless PNG in base64."""
        return vars(self) | {
            "predictions": self.predictions.tolist(),
            "shown": list(self.shown),
            "images": [encode_png(image) for image in self.images],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FlipExample:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            perturbation=data["perturbation"],
            label=data["label"],
            predictions=torch.tensor(data["predictions"], dtype=torch.int64),
            shown=tuple(data["shown"]),
            images=torch.stack([decode_png(text) for text in data["images"]]),
        )


@dataclass(frozen=True)
class FlipRates:
    """How often the predictions of a model change along perturbation sequences.

    Args:
        flips: perturbation to (n,) int64, changes image by image.
        pairs: how many pairs of frames are compared in a sequence, 30.
        examples: for each perturbation the sequence with the most changes.

    Example:
        >>> rates = FlipRates({"rotate": torch.tensor([3, 0]), "scale": torch.tensor([0, 0])}, pairs=30)
        >>> rates.rates["rotate"].value, rates.mean.value
        (0.05, 0.025)
    """

    flips: dict[str, Tensor]
    pairs: int = FRAMES - 1
    examples: tuple[FlipExample, ...] = ()

    @cached_property
    def rates(self) -> dict[str, Estimate]:
        """The share of changed predictions of each perturbation, with 95% bootstrap intervals over the images."""
        return dict(zip(self.flips, bootstrap_means(self._shares), strict=True))

    @cached_property
    def mean(self) -> Estimate:
        """The mean flip rate: the mean of the rates, with the 95% bootstrap interval over the images."""
        return bootstrap_means(self._shares.mean(1, keepdim=True))[0]

    @property
    def _shares(self) -> Tensor:
        return torch.stack([count.double() for count in self.flips.values()], 1) / self.pairs

    def to_json(self) -> dict[str, Any]:
        """JSON values: the changes image by image, and the figures to read."""
        return {
            "flips": {name: count.tolist() for name, count in self.flips.items()},
            "pairs": self.pairs,
            "examples": [example.to_json() for example in self.examples],
            "rates": {name: dict(vars(rate)) for name, rate in self.rates.items()},
            "mean": dict(vars(self.mean)),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FlipRates:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            {name: torch.tensor(count, dtype=torch.int64) for name, count in data["flips"].items()},
            data["pairs"],
            tuple(FlipExample.from_json(example) for example in data["examples"]),
        )


def pairs(name: str) -> tuple[tuple[int, int], ...]:
    """The pairs of frames that are compared: with the first frame for noise, else with the frame before.

    A frame of noise has nothing to do with the one before; what can be asked is whether it is still the clean image.

    Args:
        name: of the perturbation.

    Returns:
        30 pairs (earlier, later).

    Raises:
        ValueError: an unknown name.

    Example:
        >>> pairs("shot_noise")[:3], pairs("tilt")[:3]
        (((0, 1), (0, 2), (0, 3)), ((0, 1), (1, 2), (2, 3)))
    """
    check_choice("name", name, PERTURBATIONS)
    return tuple((0 if name.endswith("_noise") else later - 1, later) for later in range(1, FRAMES))


def flips(predictions: Tensor, name: str) -> Tensor:
    """How often the predictions of each sequence change, over the :func:`pairs` of the perturbation.

    Args:
        predictions: the predicted class of each frame.
        name: of the perturbation.

    Shape:
        predictions: (B, 31) integers; the changes: (B,) int64.

    Raises:
        TypeError: predictions that are no integer tensor.
        ValueError: a wrong shape, an unknown name.

    Example:
        >>> there_and_back = torch.tensor([[0] * 10 + [1] * 11 + [0] * 10])
        >>> int(flips(there_and_back, "rotate")), int(flips(there_and_back, "gaussian_noise"))
        (2, 11)
    """
    earlier, later = torch.tensor(pairs(name)).T
    if not isinstance(predictions, Tensor) or predictions.is_floating_point() or predictions.dtype == torch.bool:
        got = predictions.dtype if isinstance(predictions, Tensor) else type(predictions).__name__
        raise TypeError(f"predictions must be an integer tensor, got {got}")
    if predictions.ndim != 2 or predictions.shape[1] != FRAMES:
        raise ValueError(f"predictions must have shape (B, {FRAMES}), got {tuple(predictions.shape)}")
    return (predictions[:, earlier] != predictions[:, later]).sum(1)


def sequence_predictions(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    name: str,
    preset: str = "cifar",
    generator: torch.Generator | None = None,
    *,
    params: PerturbationParams | None = None,
) -> Tensor:
    """The predicted class of each frame of the perturbation sequences of a batch.

    Args:
        predict: takes float32 images (B, C, H, W) in [0, 1], gives the predicted classes (B,).
        images: uint8, or float in [0, 1].
        name: of the perturbation, see :func:`~mixaug.evaluate.corruptions.perturbations.frame`.
        preset: ``"cifar"`` (default) or ``"imagenet"``.
        generator: of torch, on the CPU, from which the record of the sequences is drawn; None: torch's default.
        params: that record, in place of a draw.

    Shape:
        images: (B, C, H, W), C 1 or 3; the predictions: (B, 31) int64, on the CPU.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown name or preset; a wrong shape, also of what ``predict`` gives.

    Example:
        >>> brighter = lambda images: (images.mean((1, 2, 3)) > 0.5).long()
        >>> predictions = sequence_predictions(brighter, torch.full((1, 1, 4, 4), 0.5), "brightness")
        >>> predictions[0, 14].item(), predictions[0, 16].item()
        (0, 1)
    """
    if params is None:
        params = sample_perturbation(len(images) if isinstance(images, Tensor) else 0, generator)
    columns = []
    for each in frames(images, name, preset, params):
        predicted = predict(each)
        if not isinstance(predicted, Tensor) or predicted.is_floating_point() or predicted.shape != each.shape[:1]:
            got = type(predicted).__name__
            if isinstance(predicted, Tensor):
                got = f"{predicted.dtype} of shape {tuple(predicted.shape)}"
            raise ValueError(f"predict must return integers of shape ({len(each)},), got {got}")
        columns.append(predicted.cpu().long())
    return torch.stack(columns, 1)


def flip_rates(
    model: Any,
    dataset: Any,
    *,
    preset: str = "cifar",
    names: Sequence[str] = PERTURBATIONS,
    n: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
    keep: Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] | None = None,
    advance: Callable[[str], None] | None = None,
) -> FlipRates:
    """The mean flip rate of a classifier over sequences of slightly changed pictures.

    ``FR_p = 1 / (30 n) sum_i sum_(s,t) [f(x_i,s) != f(x_i,t)]`` over the :func:`pairs` (s, t) of the perturbation p,
    and its mean over the perturbations; Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", ICLR 2019. Lower is better; the true class plays no part in it.

    Convention: what is random in a sequence depends on the seed, the perturbation and the image's place in the data set
    alone. So two models see the same pictures, whatever their ``batch_size`` and ``n``.

    Args:
        model: as for :func:`~mixaug.evaluate.evaluate_model`: a module, or any callable from images to logits.
        dataset: as there.
        preset: steps between the frames: ``"cifar"`` (default, for images of about 32 px) or ``"imagenet"`` (224 px).
        names: which perturbations, default all ten.
        n: number of images, drawn from the seed as for ``evaluate_model``; default all.
        batch_size: images in one pass of the model, default 256.
        seed: default 0.
        device: where the model runs; default where its first parameter is.
        progress: show a progress bar; default False.
        keep: computes a piece of the work or finds it, ``(name, compute) -> tensors``; default computes it.
        advance: told of each piece that is done; there are ``len(names) * ceil(n / batch_size)``.

    Returns:
        :class:`FlipRates`. The model is left as it was.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range, logits of a wrong shape, labels above the model's classes.
        FloatingPointError: logits that are not finite.

    Note:
        For CIFAR-P the rate is given as it is, as here. For ImageNet-P it is often divided by AlexNet's.
        The sequences differ from the published ones as :func:`~mixaug.evaluate.corruptions.perturbations.frame` says.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> data = (torch.rand(4, 3, 8, 8), torch.arange(4) % 2)
        >>> rates = flip_rates(model, data, names=("rotate", "scale"))
        >>> list(rates.rates), rates.mean.n
        (['rotate', 'scale'], 4)
    """
    preset = check_choice("preset", preset, PRESETS)
    chosen = check_choices("names", names, PERTURBATIONS)
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    seed = check_seed("seed", seed)
    module = subject_of(model, of_classes(dataset, "model_classes")).module
    data = LabelledImages(dataset)
    index = subset("n", n, len(data), seed)
    home = home_of(module)
    target = home if device is None else torch.device(device)
    counts: dict[str, Tensor] = {}
    examples = []

    with (
        Progress(len(chosen) * math.ceil(len(index) / batch_size), "model", progress) as bar,
        on_device(module, home, target),
        evaluation_mode(module),
    ):
        for name in chosen:
            rows = []
            for block, positions in enumerate(index.split(batch_size)):
                compute = partial(_block, module, target, data, positions, name, preset, seed)
                piece = compute() if keep is None else keep(f"flips/{name}/{block}", compute)
                rows.append(piece["predictions"])
                bar.advance(name.replace("_", " "))
                if advance is not None:
                    advance(name.replace("_", " "))
            found = torch.cat(rows)
            counts[name] = flips(found, name)
            examples.append(_example(data, index, found, name, preset, seed))
    return FlipRates(counts, FRAMES - 1, tuple(examples))


def _block(
    module: nn.Module, device: torch.device, data: LabelledImages, positions: Tensor, name: str, preset: str, seed: int
) -> dict[str, Tensor]:
    """The predictions for the sequences of the images at ``positions``."""
    images, labels = data.take(positions)

    def predict(batch: Tensor) -> Tensor:
        with torch.no_grad():
            logits = check_logits(bare(module)(batch), len(batch))
        if not bool(logits.isfinite().all()):
            raise FloatingPointError(f"the model's logits are not finite on frames of {name}")
        check_class_range("labels", labels, logits.shape[1])
        return logits.argmax(1)

    params = _params(positions, name, seed)
    return {"predictions": sequence_predictions(predict, as_float(images).to(device), name, preset, params=params)}


def _example(
    data: LabelledImages, index: Tensor, predictions: Tensor, name: str, preset: str, seed: int
) -> FlipExample:
    """The sequence in which the prediction changes most often."""
    most = int(flips(predictions, name).argmax())
    at = index[most : most + 1]
    images, labels = data.take(at)
    params = _params(at, name, seed)
    pictures = torch.cat([as_bytes(frame(images, name, t, preset, params)) for t in SHOWN])
    height, width = pictures.shape[-2:]
    if max(height, width) > _SHOWN_SIDE:
        shrink = _SHOWN_SIDE / max(height, width)
        pictures = resize(pictures, [max(1, round(height * shrink)), max(1, round(width * shrink))], antialias=True)
    return FlipExample(name, int(labels), predictions[most].clone(), SHOWN, pictures)


def _params(positions: Tensor, name: str, seed: int) -> PerturbationParams:
    return PerturbationParams(torch.tensor([seed_of(seed, "flips", name, at) for at in positions.tolist()]))


_SEQUENCES = 5
_GAP = 0.06  # between pictures, of their height
_RIBBON = (-0.42, -0.26)  # its lower and upper end


def flip_sequences(rates: FlipRates, classes: Sequence[str] | None = None) -> FigureImage:
    """The sequences whose prediction changes most, a strip of pictures each.

    Args:
        rates: of one model, with examples.
        classes: names of the classes; default their numbers.

    Returns:
        The figure: up to five perturbations; below the pictures a ribbon of all 31 frames.

    Raises:
        ValueError: no examples.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> example = FlipExample("scale", 3, torch.tensor([3] * 30 + [4]), (0, 30), torch.zeros(2, 1, 4, 4).byte())
        >>> flip_sequences(FlipRates({"scale": torch.tensor([1])}, examples=(example,))).title
        'Predictions that change'
    """
    examples = sorted(rates.examples, key=lambda example: -example.flips)[:_SEQUENCES]
    if not examples:
        raise ValueError("rates must hold examples, got none")
    figure, _ = new_figure(1.5 * len(examples), rows=len(examples))
    for axes, example in zip(figure.axes, examples, strict=True):
        _strip(axes, example, classes)
    caption = (
        "Of each perturbation the image whose prediction changes most often. The ribbon shows the predicted class of "
        f"all {FRAMES} frames, with a black line where it changes; white dots are the frames of the pictures."
    )
    return FigureImage(png_of(figure), "Predictions that change", caption)


def flip_bars(rates: Mapping[str, FlipRates]) -> FigureImage:
    """The flip rate of each perturbation and their mean, a bar or a point a model.

    Args:
        rates: each model's name to its rates; perturbations that not all of them have are left out.

    Returns:
        The figure, with 95% intervals.

    Raises:
        ValueError: no model, or no perturbation that all have.
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> flip_bars({"one": FlipRates({"scale": torch.tensor([1, 0, 2])})}).title
        'Flip rates'
    """
    models = list(rates.values())
    shared = [name for name in (models[0].flips if models else ()) if all(name in model.flips for model in models)]
    if not shared:
        raise ValueError("rates must hold one model or more with a perturbation that all have")
    rows = (
        [("mean", [model.mean for model in models])] if all(len(model.flips) == len(shared) for model in models) else []
    )
    rows += [(name.replace("_", " "), [model.rates[name] for model in models]) for name in shared]
    caption = (
        f"Share of the pairs of frames whose predictions differ, n = {models[0].mean.n} images with "
        f"{models[0].pairs} pairs each; lines are 95% intervals. Lower is better."
    )
    return FigureImage(grouped(rows, list(rates), "flips in %"), "Flip rates", caption)


def _strip(axes: Any, example: FlipExample, classes: Sequence[str] | None) -> None:
    """The pictures of one sequence in a row, names below them, and below these the ribbon; a picture is 1 high."""
    predictions = example.predictions.tolist()
    order = list(dict.fromkeys(predictions))
    colour_of = {label: COLOURS[position % len(COLOURS)] for position, label in enumerate(order)}
    height, width = example.images.shape[-2:]
    step = width / height + _GAP
    whole = len(example.shown) * step - _GAP
    axes.axis("off")
    for position, (number, image) in enumerate(zip(example.shown, example.images, strict=True)):
        left = position * step
        axes.imshow(
            image.permute(1, 2, 0).numpy(),
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="nearest" if max(height, width) <= 96 else "antialiased",
            extent=(left, left + width / height, 0, 1),
        )
        label, middle = predictions[number], left + width / height / 2
        axes.text(
            middle, -0.03, _name(label, classes), ha="center", va="top", fontsize=7.5, color=colour_of[label],
            fontweight="bold",
        )  # fmt: skip
    cell = whole / len(predictions)
    for number, label in enumerate(predictions):
        axes.fill_between([number * cell, (number + 1) * cell], *_RIBBON, color=colour_of[label], linewidth=0)
        if number and label != predictions[number - 1]:
            axes.plot([number * cell] * 2, _RIBBON, color="black", linewidth=1.5)
    axes.plot([(number + 0.5) * cell for number in example.shown], [sum(_RIBBON) / 2] * len(example.shown), "w.")
    axes.set(xlim=(0, whole), ylim=(_RIBBON[0] - 0.02, 1))
    changes = "1 change" if example.flips == 1 else f"{example.flips} changes"
    if pairs(example.perturbation)[-1][0] == 0:
        changes = f"{example.flips} of {len(predictions) - 1} differ from the first"
    axes.set_title(
        f"{example.perturbation.replace('_', ' ')}: {changes}; is: {_name(example.label, classes, 30)}",
        loc="left",
        fontsize=9,
        pad=3,
    )


def _name(label: int, classes: Sequence[str] | None, longest: int = 13) -> str:
    name = str(label) if classes is None or label >= len(classes) else classes[label]
    return name if len(name) <= longest else name[: longest - 1] + "…"


# Images of this side and more are nearer to ImageNet's 224 px than to CIFAR's 32 px.
_LARGE = 96


class Consistency(Measure[Measured[FlipRates]]):
    """The flip rates over perturbation sequences, see :func:`flip_rates`."""

    name, order, usual = "flips", 30, 100
    needs_pictures = True

    def work(self, n: int, eps: float) -> float:
        return len(PERTURBATIONS) * self._sequence * n

    _sequence = 2.0 * FRAMES  # a frame is made and classified

    def settings(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> dict[str, Any]:
        return {"flip_preset": self._preset(runner.data, inputs) if len(index) else None}

    def _preset(self, data: LabelledImages, inputs: Inputs) -> str:
        """The steps between the frames: the corruptions' preset, else by the size of the images."""
        if inputs.preset is not None:
            return inputs.preset
        return "imagenet" if min(data.take(torch.tensor([0]))[0].shape[-2:]) >= _LARGE else "cifar"

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> Measured[FlipRates]:
        preset = self._preset(runner.data, inputs)
        sizes = iter([len(positions) for positions in index.split(runner.batch_size)] * len(PERTURBATIONS))
        runner.bar.doing("perturbation sequences")
        rates = flip_rates(
            runner.model,
            runner.data,
            preset=preset,
            n=len(index),
            batch_size=runner.batch_size,
            seed=runner.seed,
            device=runner.device,
            keep=runner.journal.keeping(preset, index, runner.batch_size),
            advance=lambda name: runner.step(f"sequences of {name}", self._sequence * next(sizes)),
        )
        return Measured(index, rates)

    def to_json(self, result: Measured[FlipRates] | None) -> dict[str, Any]:
        index = torch.empty(0, dtype=torch.int64) if result is None else result.index
        return {"flip_index": pack(index.int()), "flips": None if result is None else result.value.to_json()}

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> Measured[FlipRates] | None:
        if data["flips"] is None:
            return None
        return Measured(unpack(data["flip_index"], torch.int32).long(), FlipRates.from_json(data["flips"]))

    def summary(self, result: Measured[FlipRates] | None) -> dict[str, Any]:
        return {"flip_rate": None if result is None else vars(result.value.mean)}

    def rows(self, result: Measured[FlipRates]) -> dict[str, tuple[str, Estimate]]:
        return {"flip_rate": ("flip rate", result.value.mean)}

    def count(self, result: Measured[FlipRates]) -> str:
        return f"perturbation sequences on {len(result.index):,}"

    def tables(self, result: Measured[FlipRates]) -> list[Section]:
        rates = result.value
        rows = [Row(corruption_label(name), [rate, f"{rate.n:,}"]) for name, rate in rates.rates.items()]
        rows.append(Row("mean", [rates.mean, f"{rates.mean.n:,}"], total=True))
        note = (
            f"Share of {rates.pairs} pairs of frames of a sequence between which the prediction changes: with the "
            "frame before, for noise with the first. Small figures are 95% intervals."
        )
        return [Section("Flip rates", 30, Table(["perturbation", "flip rate, %", "n"], rows, note))]

    def figures(self, result: Measured[FlipRates], model: ModelInfo) -> list[Drawn]:
        drawn = [Drawn("flips", 50, flip_bars({model.name: result.value}))]
        if result.value.examples:
            drawn.append(Drawn("sequences", 51, flip_sequences(result.value, model.classes)))
        return drawn

    def text(self, result: Measured[FlipRates]) -> str:
        rates = result.value.rates.items()
        rows = [[corruption_label(name), rate.text, interval_text(rate)] for name, rate in rates]
        return text_table(["perturbation", "flip rate", "95% interval"], rows)

    def same(self, one: Measured[FlipRates], other: Measured[FlipRates], models: tuple[ModelInfo, ModelInfo]) -> bool:
        kinds = [(list(rates.flips), rates.pairs) for rates in (one.value, other.value)]
        return torch.equal(one.index, other.index) and kinds[0] == kinds[1]

    def by_image(self, result: Measured[FlipRates], key: str) -> Tensor:
        counts = torch.stack([count.double() for count in result.value.flips.values()])
        return counts.mean(0) / result.value.pairs

    def compared_tables(self, results: Sequence[Measured[FlipRates]], models: Sequence[ModelInfo]) -> list[Section]:
        rates = [result.value.rates for result in results]
        rows = []
        for name in rates[0]:
            values = [each[name].value for each in rates]
            best = [index for index, value in enumerate(values) if value <= min(values) + 1e-12]
            rows.append(Row(corruption_label(name), [each[name] for each in rates], best=best))
        return [Section("Flip rates", 30, Table(["flip rate, %", *(model.name for model in models)], rows))]

    def compared_figures(self, results: Sequence[Measured[FlipRates]], models: Sequence[ModelInfo]) -> list[Drawn]:
        rates = {model.name: result.value for model, result in zip(models, results, strict=True)}
        return [Drawn("flips", 50, flip_bars(rates))]


MEASURE = Consistency()
