"""What is trained and measured: the data set and its sizes, the variants, and the runs that these make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


def data_of(cifar: Path | None) -> tuple[str, str]:
    """The data set's name on the page and for ``load_data``: the images in the package, or a folder of CIFAR-10."""
    if cifar is None:
        return "Fashion-MNIST, the subset in the package", "embedded"
    return "CIFAR-10 (JPEG copy)", f"folder:{cifar.expanduser().resolve()}"


@dataclass(frozen=True)
class Sizes:
    """How much is measured of each model.

    Args:
        n: test images by what is measured on them.
    """

    n: Mapping[str, int]


@dataclass(frozen=True, eq=False)  # the same object is the same plan: hashable with its dicts
class DataPlan:
    """What is done on one data set.

    Args:
        key: name of the folder of its runs.
        label: its name on the page.
        shared: training settings that all variants have; ``data``, ``limit`` and ``epochs`` are among them.
        variants: settings of each.
        sizes: of the evaluation.
    """

    key: str
    label: str
    shared: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    sizes: Sizes

    def settings(self, variant: str) -> dict[str, Any]:
        """Training settings of a variant, but for seed, device and folder."""
        return {**self.shared, **self.variants[variant]}


@dataclass(frozen=True, eq=False)
class Plan(DataPlan):
    """A page on one data set, whose files have the plan's key for a name.

    Args:
        title: heading of the page.
        reference: the variant that the others are compared with.
        eps: radius of the attacks.
    """

    title: str = field(kw_only=True)
    reference: str = field(kw_only=True)
    eps: float = field(kw_only=True)

    def evaluation(self) -> dict[str, Any]:
        """Everything that decides what is measured, for the record."""
        return {"eps": self.eps, "n": dict(self.sizes.n)}


class Job(NamedTuple):
    """One run: a variant trained and measured on a data set with a seed."""

    plan: DataPlan
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run below ``--out``: ``study_adversarial/pgd-at-s0``."""
        words = self.variant.lower().replace("+", " ").replace(",", "").split()
        return "/".join([self.plan.key, "-".join([*words, f"s{self.seed}"])])

    @property
    def shown(self) -> str:
        """Its name on the page, where the folder says nothing if the page has one data set."""
        return self.name.partition("/")[2] if isinstance(self.plan, Plan) else self.name

    @property
    def group(self) -> tuple[str, str]:
        """What runs that take the same time have in common."""
        return self.plan.key, self.variant

    @property
    def words(self) -> list[str]:
        """What ``--one`` says of it: the data set where a page may have several, variant and seed."""
        run = [self.variant, str(self.seed)]
        return run if isinstance(self.plan, Plan) else [self.plan.key, *run]


def jobs_of(plans: Sequence[DataPlan], seeds: int) -> list[Job]:
    """All planned runs, the first seed of every variant first: what is finished early can be compared."""
    return [Job(plan, name, seed) for seed in range(seeds) for plan in plans for name in plan.variants]


def job_of(jobs: Sequence[Job], words: Sequence[str]) -> Job:
    """The run that ``--one`` names."""
    (found,) = (job for job in jobs if job.words == list(words))
    return found
