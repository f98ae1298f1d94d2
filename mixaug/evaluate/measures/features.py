"""A map of a classifier's penultimate features: what it sees as alike lies close together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixaug._checks import MAX_COUNT, check_int, check_number, check_seed, optional_import
from mixaug._drawing import GREY, FigureImage, looks, new_figure, png_of
from mixaug._model_state import bare, check_class_range, check_logits, evaluation_mode, home_of
from mixaug._pictures import as_float
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.measure import Drawn, Inputs, Measure, ModelInfo, ModelRunner, NotMeasurable
from mixaug.evaluate.subject import on_device

__all__ = [
    "FeatureMap",
    "Features",
    "feature_map",
    "penultimate_features",
    "why_no_features",
]


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FEWEST = 3  # of fewer images there is nothing to lay out


@dataclass(frozen=True)
class Features:
    """What goes into the last layer of a classifier, and the logits that come out.

    Args:
        values: (n, D) float32 on the CPU.
        logits: (n, K) float32 on the CPU.
        layer: name of the last layer in the model.
    """

    values: Tensor
    logits: Tensor
    layer: str


@dataclass(frozen=True)
class FeatureMap:
    """Images laid out in the plane by their features.

    Args:
        points: (n, 2) float32.
        labels: (n,) int64, the classes.
        predicted: (n,) int64, the predicted classes.
        layer: name of the layer whose input the features are.
        dimensions: of the features.
        perplexity: of the t-SNE.

    Example:
        >>> two = torch.tensor([0, 1])
        >>> FeatureMap(torch.zeros(2, 2), two, two, "fc", 512, 0.5).to_json()["labels"]
        [0, 1]
    """

    points: Tensor
    labels: Tensor
    predicted: Tensor
    layer: str
    dimensions: int
    perplexity: float

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureMap:
        """The inverse of :meth:`to_json`, exactly."""
        return cls(
            points=torch.tensor(data["points"], dtype=torch.float32).view(-1, 2),
            labels=torch.tensor(data["labels"], dtype=torch.int64),
            predicted=torch.tensor(data["predicted"], dtype=torch.int64),
            layer=data["layer"],
            dimensions=data["dimensions"],
            perplexity=data["perplexity"],
        )


def why_no_features(model: Any) -> str | None:
    """Why there are no features of ``model`` to look at; None if there may be.

    Example:
        >>> why_no_features(lambda images: images.flatten(1))
        'a model that is no torch.nn.Module has no layers that can be looked into'
        >>> why_no_features(nn.Linear(3, 2)) is None
        True
    """
    if not isinstance(model, nn.Module):
        return "a model that is no torch.nn.Module has no layers that can be looked into"
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "TorchScript has no layers that can be looked into"
    if not any(isinstance(module, _LAYERS) for module in model.modules()):
        return "the model has no linear layer and no convolution"
    return None


def penultimate_features(
    model: nn.Module, images: Any, *, batch_size: int = 256, device: torch.device | str | None = None
) -> Features:
    """The input of the last layer of a classifier, found by watching a forward pass.

    Convention: the last layer is the linear layer or convolution that is called last; a convolution's input, and a
    linear layer's that has places, is averaged over them.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, K).
        images: a tensor (n, C, H, W), uint8 or float in [0, 1].
        batch_size: images in one pass of the model, default 256.
        device: where the model runs; default where its first parameter is.

    Returns:
        :class:`Features`. The model is left as it was, also after an error.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a model without such a layer (see :func:`why_no_features`), images or logits of a wrong shape.
        FloatingPointError: features or logits that are not finite.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> features = penultimate_features(model, torch.rand(4, 1, 4, 4))
        >>> tuple(features.values.shape), features.layer
        ((4, 5), '3')
    """
    reason = why_no_features(model)
    if reason is not None:
        raise ValueError(f"model must have layers that can be looked into: {reason}")
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    data = LabelledImages((images, torch.zeros(images.shape[:1], dtype=torch.int64)))
    # A compiled model does not call hooks that came after it was compiled.
    model = getattr(bare(model), "_orig_mod", bare(model))
    home = home_of(model)
    target = home if device is None else torch.device(device)
    values, outputs = [], []
    with on_device(model, home, target), evaluation_mode(model), torch.no_grad(), _watched(model) as seen:
        for batch, _ in data.blocks(torch.arange(len(data)), batch_size):
            seen.clear()
            logits = check_logits(model(as_float(batch).to(target)), len(batch))
            if not seen:
                raise ValueError("model must call its layers as modules, got one that calls no layer with weights")
            name, layer, entered = seen[0]
            row = _a_row_each(layer, entered)
            if row.shape[:1] != batch.shape[:1]:
                raise ValueError(f"model must give its last layer {name!r} a row an image, got {tuple(entered.shape)}")
            values.append(row.float().cpu())
            outputs.append(logits.float().cpu())
    features = Features(torch.cat(values), torch.cat(outputs), name)
    if not bool(features.values.isfinite().all() and features.logits.isfinite().all()):
        raise FloatingPointError("the model's features or logits are not finite")
    return features


def feature_map(
    model: nn.Module,
    images: Any,
    labels: Tensor,
    *,
    perplexity: float = 30.0,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> FeatureMap:
    """Images laid out in the plane by a t-SNE of the classifier's penultimate features.

    van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9 (2008), by scikit-learn, started from the first
    two principal components.

    Convention: of n images the perplexity is at most (n - 1) / 3. Features that are all the same lie on one point.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, K).
        images: a tensor (n, C, H, W), uint8 or float in [0, 1].
        labels: the classes.
        perplexity: about how many neighbours an image has, default 30.
        batch_size: images in one pass of the model, default 256.
        seed: of the t-SNE, default 0.
        device: where the model runs; default where its first parameter is.

    Shape:
        images: (n, C, H, W), n of 3 or more; labels: (n,) int64.

    Returns:
        A :class:`FeatureMap`. The model is left as it was.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: fewer than 3 images, an argument out of range, a model as in :func:`penultimate_features`.
        FloatingPointError: features or logits that are not finite.
        ModuleNotFoundError: scikit-learn is not installed.

    Note:
        In a t-SNE only who is close to whom has a meaning; distances between groups and their sizes have none.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> layout = feature_map(model, torch.rand(12, 1, 4, 4), torch.arange(12) % 3)
        >>> tuple(layout.points.shape), layout.dimensions, layout.layer
        ((12, 2), 5, '3')
    """
    perplexity = check_number("perplexity", perplexity, low=1e-6, high=1e6)
    seed = check_seed("seed", seed)
    if isinstance(images, Tensor) and len(images) < _FEWEST:
        raise ValueError(f"images must be {_FEWEST} or more, got {len(images)}")
    features = penultimate_features(model, images, batch_size=batch_size, device=device)
    labels = LabelledImages((images, labels)).take(torch.arange(len(images)))[1]
    check_class_range("labels", labels, features.logits.shape[1])
    bounded = min(float(perplexity), (len(labels) - 1) / 3)
    points = _tsne(features.values, bounded, seed)
    return FeatureMap(points, labels, features.logits.argmax(1), features.layer, int(features.values.shape[1]), bounded)


def _tsne(values: Tensor, perplexity: float, seed: int) -> Tensor:
    manifold = optional_import("sklearn.manifold")
    if bool((values == values[0]).all()):
        return torch.zeros(len(values), 2, dtype=torch.float32)  # a division by their spread, zero, would give NaN
    if values.shape[1] == 1:
        values = torch.cat([values, torch.zeros_like(values)], 1)  # two principal components need two columns
    tsne = manifold.TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=seed % 2**32)
    return torch.from_numpy(tsne.fit_transform(values.numpy())).float()


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor]]]:
    """The layer with weights that was called last, its name and its input: a list of none or one."""
    seen: list[tuple[str, nn.Module, Tensor]] = []
    handles = []

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen[:] = [(name, layer, arguments[0] if arguments else named["input"])]

        return layer.register_forward_pre_hook(hook, with_kwargs=True)

    try:
        for name, layer in model.named_modules():
            if isinstance(layer, _LAYERS):
                handles.append(watch(name, layer))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _a_row_each(layer: nn.Module, entered: Tensor) -> Tensor:
    """(B, D): the mean over the places of a convolution's input, or of a linear layer's that has any."""
    if not isinstance(layer, nn.Linear):
        return entered.flatten(2).mean(2)
    return entered if entered.ndim == 2 else entered.flatten(1, -2).mean(1)


_NAMED = 12


def feature_figure(layout: FeatureMap, classes: Sequence[str] | None = None) -> FigureImage:
    """The points of a feature map, a colour and a marker a class; wrong predictions are ringed in black.

    Args:
        layout: of one model.
        classes: names of the classes; default their numbers. The 12 most frequent are named, others are grey dots.

    Returns:
        The figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> feature_figure(FeatureMap(torch.rand(3, 2), labels, labels, "fc", 64, 0.67)).title
        'Features'
    """
    found, counts = layout.labels.unique(return_counts=True)
    named = found[counts.argsort(descending=True, stable=True)][:_NAMED].sort().values.tolist()
    figure, axes = new_figure(5.4 + 0.2 * ((len(named) + 2) // 3))
    rest = ~torch.isin(layout.labels, torch.tensor(named, dtype=torch.int64))
    size = 30 if len(layout.labels) <= 400 else 18
    if bool(rest.any()):
        x, y = layout.points[rest].T.tolist()
        axes.scatter(x, y, s=size / 3, color=GREY, alpha=0.5, linewidths=0, label=f"{len(found) - len(named)} others")
    for look, label in zip(looks(len(named)), named, strict=True):
        mine = layout.labels == label
        x, y = layout.points[mine].T.tolist()
        wrong = (layout.predicted != layout.labels)[mine].tolist()
        axes.scatter(
            x,
            y,
            s=size,
            marker=look.marker,
            color=look.colour,
            edgecolors=["black" if miss else "white" for miss in wrong],
            linewidths=[0.9 if miss else 0.3 for miss in wrong],
            label=str(label) if classes is None or label >= len(classes) else classes[label][:20],
        )
    axes.set_xticks([])
    axes.set_yticks([])
    legend = figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False, markerscale=1.3)
    for handle in legend.legend_handles:  # the first point of a class may be a wrong one
        handle.set_edgecolor("white")
    right = float((layout.predicted == layout.labels).double().mean())
    caption = (
        f"t-SNE of the {layout.dimensions} inputs of the model's last layer, n = {len(layout.labels)} images, "
        f"perplexity {layout.perplexity:.3g}. Ringed in black: wrong ({100 * (1 - right):.1f}%). Only "
        "who is close to whom has a meaning."
    )
    return FigureImage(png_of(figure), "Features", caption)


class FeatureLayout(Measure[FeatureMap]):
    """A map of the features, see :func:`feature_map`."""

    name, order, usual = "features", 90, 500
    needs_layers = True
    needs_library = "sklearn.manifold"
    section = "examples"

    def work(self, n: int, eps: float) -> float:
        return 2.0 * n

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> FeatureMap:
        images, labels = runner.data.take(index)

        def layout() -> dict[str, Tensor]:
            found = feature_map(
                runner.model, as_float(images).to(runner.device), labels, batch_size=runner.batch_size, seed=runner.seed
            )
            return {
                "points": found.points,
                "predicted": found.predicted,
                "layer": torch.tensor(list(found.layer.encode()), dtype=torch.uint8),
                "numbers": torch.tensor([found.dimensions, found.perplexity], dtype=torch.float64),
            }

        runner.bar.doing("features")
        try:
            piece = runner.journal.keep("features", layout, index, runner.batch_size)
        except ValueError as error:  # too few images, or a model without layers that can be looked into
            raise NotMeasurable(str(error)) from error
        finally:
            runner.step("features", self.work(len(index), inputs.eps))
        dimensions, perplexity = piece["numbers"].tolist()
        layer = bytes(piece["layer"].tolist()).decode()
        return FeatureMap(piece["points"], labels, piece["predicted"], layer, int(dimensions), perplexity)

    def to_json(self, result: FeatureMap | None) -> dict[str, Any]:
        return {"features": None if result is None else result.to_json()}

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> FeatureMap | None:
        return None if data["features"] is None else FeatureMap.from_json(data["features"])

    def figures(self, result: FeatureMap, model: ModelInfo) -> list[Drawn]:
        return [Drawn("features", 90, feature_figure(result, model.classes))]


MEASURE = FeatureLayout()
