"""What a measure is: all that the report wants to know of one thing it measures, in one file of ``measures/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mixaug._drawing import FigureImage
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.intervals import Estimate, bootstrap_means
from mixaug.evaluate.journal import Journal, Progress
from mixaug.evaluate.tables import Table

R = TypeVar("R")
#: How the interval of a difference between two models is found.
PAIRED = "paired bootstrap"


class NotMeasurable(Exception):
    """A measure finds that a model cannot be measured; the message, the reason, goes to ``Report.left_out``."""


class ModelRunner(Protocol):
    """What computes for a measure: the model with its images, a journal of finished pieces and a progress bar."""

    model: nn.Module
    device: torch.device
    data: LabelledImages
    batch_size: int
    seed: int
    journal: Journal
    bar: Progress

    def __call__(self, images: Tensor, labels: Tensor | None, what: str) -> tuple[Tensor, Tensor, Tensor]:
        """Right or wrong, confidence and prediction of float32 images in [0, 1], on the CPU."""

    def scored(self, data: LabelledImages, what: str, *, labelled: bool) -> tuple[Tensor, Tensor]:
        """Right or wrong and confidence of all images of a data set, resumably."""

    def step(self, done: str, work: float) -> None:
        """Tells the progress bar of work that is done, in passes of one image through the model."""


@dataclass(frozen=True)
class Measured(Generic[R]):
    """What was found on some of the images: ``index`` (n,) int64 are their positions, ascending."""

    index: Tensor
    value: R


@dataclass(frozen=True)
class Inputs:
    """What a measure gets beside the model and its images.

    Args:
        correct: (n,) bool, right or wrong of all clean images.
        confidence: (n,) float32, probability of their predicted class.
        eps: radius of the evaluation in [0, 1].
        preset: of the corruptions, ``"cifar"`` or ``"imagenet"``; None: no corruptions, or a saved set of them.
        other: out-of-distribution images; None: there are none.
    """

    correct: Tensor
    confidence: Tensor
    eps: float
    preset: str | None = None
    other: LabelledImages | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What tables and figures say of a model beside a measure's result.

    Args:
        name: of the model in the report.
        classes: names of the classes; None: not known.
        settings: of the evaluation, such as ``eps``.
        attacks: label to accuracy under each attack that kept to the radius.
        masked: whether the audit found its gradients masked.
    """

    name: str
    classes: Sequence[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    attacks: Mapping[str, Estimate] = field(default_factory=dict)
    masked: bool = False

    @property
    def marked_name(self) -> str:
        """The name, with a sign behind that of a masked model."""
        return f"{self.name} †" if self.masked else self.name


@dataclass(frozen=True)
class Drawn:
    """A figure with the part of its file's name; on the page figures are in the order of ``position``.

    The report's own are at 10 (corruptions), 30 (attacks), 60 (attacked images) and 65 (corrupted images).
    """

    key: str
    position: int
    figure: FigureImage


@dataclass(frozen=True)
class Section:
    """A table under a heading of the page, in the order of ``position``.

    The report's own are at 10 (``Attacks``) and 20 (corruptions), a comparison's at 80 (corruptions). Tables of one
    title share its heading.
    """

    title: str
    position: int
    table: Table


class Measure(Generic[R]):
    """One thing that the report measures: the plan, the work, the result in JSON, and how it is shown and compared.

    A module of ``mixaug/evaluate/measures`` that has a ``MEASURE`` takes part in every evaluation; nothing else names
    it. ``compute``, ``to_json`` and ``from_json`` must be there, and at least one of ``rows``, ``tables`` and
    ``figures``; all others have a default. See ``docs/contributing/adding-a-measure.md``.

    Attributes:
        name: key of the result in ``Report.measured``; ``n_<name>`` in ``Report.settings`` is its number of images.
        order: place among the measures, in tables and texts.
        usual: images with ``everything=True`` if no number is given, all if there are fewer; None: only if asked for.
        counted: whether it is measured on a number of the data set's images that is asked for. One that is not says by
            :meth:`possible` whether it is measured.
        of_clean: whether the result is of the clean images' outcomes alone, always there and never kept.
        timed_as: name of its time in ``Report.seconds``.
        needs_gradient: whether it follows gradients of the model.
        needs_layers: whether it looks into the model's layers.
        needs_pictures: whether images must be grey or RGB.
        needs_library: a module that must be installed.
        of_radius: what it measures within ``eps``, for the error where that is 0; "": it does not depend on it.
        section: where its JSON is kept, in ``"outcomes"`` (image by image) or ``"examples"`` (pictures).
        higher: those keys of :meth:`rows` of which more is better, each with a short word for the notes.
        quantity: what of :meth:`rows` is no share of one, as a comparison calls it.
        by_gradients: what of it an attack by gradients finds, so that a masked model's says little.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    usual: ClassVar[int | None] = None
    counted: ClassVar[bool] = True
    of_clean: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False
    needs_layers: ClassVar[bool] = False
    needs_pictures: ClassVar[bool] = False
    needs_library: ClassVar[str] = ""
    of_radius: ClassVar[str] = ""
    section: ClassVar[str] = "outcomes"
    higher: ClassVar[Mapping[str, str]] = {}
    quantity: ClassVar[str] = ""
    by_gradients: ClassVar[str] = ""

    @property
    def timed_as(self) -> str:
        return self.name

    # The plan

    def images(self, everything: bool, attacks: str | None) -> int | None:
        """Its number of images where none is given; None: it is not measured. ``attacks``: the preset, if it is one."""
        return self.usual if everything else None

    def possible(self, inputs: Inputs) -> bool:
        """Whether a measure that is not counted is measured."""
        return True

    def work(self, n: int, eps: float) -> float:
        """The work on ``n`` images, in passes of one image through the model, as :meth:`ModelRunner.step` is told."""
        return float(n)

    def settings(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> dict[str, Any]:
        """What of its own choice must be known to repeat it, for ``Report.settings``."""
        return {}

    # The work

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> R:
        """Measures the model on the images at ``index``; finished pieces are kept in ``runner.journal``.

        Raises:
            NotMeasurable: this model cannot be measured.
        """
        raise NotImplementedError

    # The result as JSON

    def to_json(self, result: R | None) -> dict[str, Any]:
        """Keys and JSON values that are added to the section; a key stays the same from version to version."""
        raise NotImplementedError

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> R | None:
        """The inverse of :meth:`to_json`, from the section and the clean images' outcomes; None: not measured."""
        raise NotImplementedError

    def of_outcomes(self, correct: Tensor, confidence: Tensor) -> R:
        """The result of a measure that is :attr:`of_clean`."""
        raise NotImplementedError

    def summary(self, result: R | None) -> dict[str, Any]:
        """Figures with their intervals as JSON values to read, in the report's ``figures``."""
        return {}

    def compared_summary(self, result: R | None) -> dict[str, Any]:
        """The same for a model of a comparison, beside its headline figures."""
        return {}

    # The report of one model

    def rows(self, result: R) -> dict[str, tuple[str, Estimate]]:
        """Headline figures, key to label and estimate."""
        return {}

    def count(self, result: R) -> str:
        """On how many images it was measured, as the page says it; "": it is not said."""
        return ""

    def tables(self, result: R) -> list[Section]:
        """Tables of the page."""
        return []

    def figures(self, result: R, model: ModelInfo) -> list[Drawn]:
        """Figures of the page."""
        return []

    def text(self, result: R) -> str:
        """A table for the terminal; "": none."""
        return ""

    def notes(self, result: R) -> list[str]:
        """What a reader must know about the figures, a sentence each."""
        return []

    # The comparison of several models

    def same(self, one: R, other: R, models: tuple[ModelInfo, ModelInfo]) -> bool:
        """Whether two results are of the same images, measured in the same way."""
        return True

    def by_image(self, result: R, key: str) -> Tensor:
        """(n,) float64, of which the headline figure ``key`` is the mean."""
        raise NotImplementedError

    def difference(self, one: R, other: R, key: str) -> Estimate:
        """A headline figure less that of another model, with a paired 95% interval."""
        change = self.by_image(one, key) - self.by_image(other, key)
        return bootstrap_means(change[:, None], method=PAIRED)[0]

    def compared_tables(self, results: Sequence[R], models: Sequence[ModelInfo]) -> list[Section]:
        """Tables of a comparison's page, of results that are the :meth:`same`."""
        return []

    def compared_figures(self, results: Sequence[R], models: Sequence[ModelInfo]) -> list[Drawn]:
        """Figures of a comparison's page."""
        return []

    def compared_text(self, results: Sequence[R], models: Sequence[ModelInfo]) -> str:
        """A table for the terminal; "": none."""
        return ""
