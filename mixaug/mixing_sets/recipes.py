"""The sources of a mixing set, one or several: each knows how to make its pictures again and what its cache file is."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mixaug._checks import MAX_PICTURES, check_int
from mixaug._pictures import FolderWalk, read_tensor
from mixaug.mixing_sets.cache import load_or_make
from mixaug.mixing_sets.sources import iter_pictures, make_rows, source_of

_TOLERANCE = 1e-6  # of the weights' sum: 0.7 + 0.2 + 0.1 is not 1 in binary


def check_weights(weights: Sequence[float] | None, sets: int) -> list[float] | None:
    """The weights as floats that sum to 1.

    Raises:
        TypeError: not numbers.
        ValueError: not one for each set, a negative or non-finite one, or another sum than 1.
    """
    if weights is None:
        return None
    if isinstance(weights, str) or not hasattr(weights, "__len__"):
        raise TypeError(f"weights must be a sequence of numbers or None, got {type(weights).__name__}: {weights!r}")
    if len(weights) != sets:
        raise ValueError(f"weights must hold one number for each of the {sets} sets, got {len(weights)}")
    try:
        values = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise TypeError(f"weights must be numbers, got {weights!r}") from error
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"weights must be finite and at least 0, got {weights!r}")
    if abs(sum(values) - 1.0) > _TOLERANCE:
        raise ValueError(f"weights must sum to 1, got {weights!r} with sum {sum(values):g}")
    return values


def _shares(weights: Sequence[float], count: int) -> list[int]:
    """Whole numbers that sum to ``count``, nearest to ``count * weights`` (largest remainders)."""
    exact = [weight * count for weight in weights]
    whole = [math.floor(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda k: (whole[k] - exact[k], k))
    for k in order[: count - sum(whole)]:
        whole[k] += 1
    return whole


def mixture_counts(lengths: Sequence[int], weights: Sequence[float] | None, count: int | None) -> list[int]:
    """How many pictures of each set make up a mixture, none taken twice.

    Args:
        lengths: of the sets.
        weights: shares that sum to 1; None: in proportion to the lengths.
        count: pictures in all; None: as many as there are without taking one twice.

    Raises:
        ValueError: ``count`` is more than the sets have for these weights, or so small that a set gets no picture.
    """
    total = sum(lengths)
    shares = [length / total for length in lengths] if weights is None else list(weights)
    most = min(math.floor(n / w + 1e-9) for n, w in zip(lengths, shares, strict=True) if w > 0)
    while any(k > n for k, n in zip(_shares(shares, most), lengths, strict=True)):  # a share that was rounded up
        most -= 1
    if count is None:
        count = most
    else:
        count = check_int("count", count, 1, MAX_PICTURES)
        if count > most:
            raise ValueError(f"count must be at most {most} for these sets and weights (no picture twice), got {count}")
    counts = _shares(shares, count)
    if any(w > 0 and k == 0 for w, k in zip(shares, counts, strict=True)):
        raise ValueError(f"count must be large enough for a picture of each set, got {count} for weights {shares}")
    return counts


def interleaved(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (set, index), each set spread evenly, so that every stretch of a mixture holds its shares."""
    places = [((j + 0.5) / n, k, j) for k, n in enumerate(counts) for j in range(n)]
    return [(k, j) for _, k, j in sorted(places)]


_CHUNK = 32
# Counts the changes of how files become pictures; part of a folder's digest, so that no cache outlives one.
_READER = 2
#: Beginning of the names of contact sheets of `mixaug mixing-set`, which stand beside the pictures but are none.
SHEET = "contact-sheet-"


@dataclass(frozen=True)
class SyntheticRecipe:
    """Pictures of a synthetic source from one seed; ``kinds`` is None when all of them are drawn from."""

    source: str
    count: int
    size: int
    seed: int
    kinds: tuple[str, ...] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.count, 3, self.size, self.size

    @property
    def stem(self) -> str:
        return f"{self.pictures_stem}-n{self.count}"

    @property
    def pictures_stem(self) -> str:
        """What picture i of any count has in common."""
        kinds = "" if self.kinds is None else "-" + "+".join(self.kinds)
        version = source_of(self.source).version
        return f"{self.source}{version}{kinds}-s{self.size}-seed{self.seed}"

    @property
    def title(self) -> str:
        source = source_of(self.source).title
        kinds = "" if self.kinds is None else f" ({', '.join(self.kinds)})"
        return f"{self.count} {source}{kinds} of {self.size} px, seed {self.seed}"

    def chunks(self) -> Iterator[torch.Tensor]:
        return iter_pictures(self.source, self.count, self.size, self.seed, kinds=self.kinds)

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """The pictures at some positions, made alone."""
        return make_rows(self.source, index, self.size, self.seed, self.kinds)


@dataclass(frozen=True)
class FolderRecipe:
    """The pictures of a folder, with a digest of names, lengths and times, so that a changed folder is read again.

    The names themselves are listed when they are needed, so that a recipe stays small in a pickle.
    """

    folder: str
    count: int
    size: int
    digest: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.count, 3, self.size, self.size

    @property
    def stem(self) -> str:
        return f"folder-{self.digest}-n{self.count}-s{self.size}"

    @property
    def title(self) -> str:
        return f"{self.count} pictures of {self.folder} at {self.size} px"

    def chunks(self) -> Iterator[torch.Tensor]:
        names, digest = list_pictures(Path(self.folder), warn=False)  # has been, when the recipe was made
        if digest != self.digest:
            raise ValueError(f"path must not change while it is used, but the pictures of {self.folder} did")
        for start in range(0, len(names), _CHUNK):
            part = names[start : start + _CHUNK]
            yield torch.stack([read_tensor(Path(self.folder) / name, side=self.size) for name in part])


@dataclass(frozen=True)
class MixtureRecipe:
    """The first pictures of several recipes, evenly mixed; ``counts`` says how many of each."""

    parts: tuple[PicturesRecipe, ...]
    counts: tuple[int, ...]
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return sum(self.counts), 3, self.size, self.size

    @property
    def stem(self) -> str:
        parts = repr([(part.stem, count) for part, count in zip(self.parts, self.counts, strict=True)])
        return f"mixture-{hashlib.sha256(parts.encode()).hexdigest()[:20]}-s{self.size}"

    @property
    def title(self) -> str:
        parts = "; ".join(f"{n} of {part.title}" for part, n in zip(self.parts, self.counts, strict=True))
        return f"{sum(self.counts)} pictures of {self.size} px, a mixture: {parts}"

    def chunks(self) -> Iterator[torch.Tensor]:
        recipes = [part if part.shape[3] == self.size else ResizedRecipe(part, self.size) for part in self.parts]
        return mixed_chunks([load_or_make(recipe)[0] for recipe in recipes], self.counts)


#: What a `MixingSet` can be made of again.
PicturesRecipe = SyntheticRecipe | FolderRecipe | MixtureRecipe


@dataclass(frozen=True)
class ResizedRecipe:
    """Another recipe's pictures at another side."""

    base: PicturesRecipe
    side: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.base.shape[0], 3, self.side, self.side

    @property
    def stem(self) -> str:
        return f"{self.base.stem}-r{self.side}"

    def chunks(self) -> Iterator[torch.Tensor]:
        return resized_chunks(load_or_make(self.base)[0], self.side)

    def rows(self, index: Sequence[int]) -> torch.Tensor:
        """The pictures at some positions, of a synthetic source, made alone."""
        if not isinstance(self.base, SyntheticRecipe):
            raise TypeError(f"base must be a SyntheticRecipe, got {type(self.base).__name__}")
        return resize(self.base.rows(index), self.side)


def mixed_chunks(pictures: Sequence[torch.Tensor], counts: Sequence[int]) -> Iterator[torch.Tensor]:
    """The first ``counts`` of several sets of one size, interleaved, in pieces."""
    order = interleaved(counts)
    for start in range(0, len(order), _CHUNK):
        yield torch.stack([pictures[k][j] for k, j in order[start : start + _CHUNK]])


def resized_chunks(pictures: torch.Tensor, side: int) -> Iterator[torch.Tensor]:
    """`resize` in pieces, so that the float copies stay small."""
    for piece in pictures.split(_CHUNK):
        yield resize(piece, side)


def resize(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Antialiased bilinear resize of uint8 (N, 3, S, S), rounded to the nearest level."""
    if pictures.shape[-1] == side:
        return pictures
    scaled = torch.nn.functional.interpolate(
        pictures.to(torch.float32), size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def scan_folder(path: str | os.PathLike[str], size: int) -> FolderRecipe:
    """The recipe of a folder.

    Raises:
        TypeError: ``path`` is not a path.
        ValueError: it is not a readable folder, or holds no picture.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {type(path).__name__}: {path!r}")
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"path must be a folder of pictures, but {folder} {what}")
    names, digest = list_pictures(folder)
    if not names:
        raise ValueError(f"path must hold at least one picture (.png, .jpg, .webp, ...), but {folder} holds none")
    return FolderRecipe(str(folder), len(names), size, digest)


def list_pictures(folder: Path, warn: bool = True) -> tuple[list[str], str]:
    """Names of the pictures in a folder and its sub-folders, sorted, and a digest of names, lengths and times."""
    found: list[tuple[str, int, int]] = []
    walk = FolderWalk()
    for path in walk.pictures(folder):
        if not os.path.basename(path).startswith(SHEET):
            status = os.stat(path)
            found.append((Path(path).relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    if warn:
        walk.warn_of_links()
    found.sort()
    digest = hashlib.sha256(repr((_READER, str(folder), found)).encode()).hexdigest()[:20]
    return [name for name, _, _ in found], digest
