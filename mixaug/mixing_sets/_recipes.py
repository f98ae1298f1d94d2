"""The sources of a mixing set: each knows how to make its pictures again and what to call their cache file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mixaug._pictures import FolderWalk, read_tensor
from mixaug.mixing_sets._cache import load_or_make
from mixaug.mixing_sets._mixture import interleaved
from mixaug.mixing_sets._sources import iter_pictures, source_of

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
