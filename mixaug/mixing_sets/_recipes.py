"""The sources of a mixing set: each knows how to make its pictures again and what to call their cache file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mixaug.mixing_sets._cache import load_or_make
from mixaug.mixing_sets._mixture import interleaved
from mixaug.mixing_sets._sources import iter_pictures, source_of

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 32
# Documents, videos and measurements that PIL opens a page or frame of.
_NOT_PICTURES = {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".fits", ".fit", ".h5", ".hdf", ".grib", ".bufr"}
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
        names, digest = list_pictures(Path(self.folder))
        if digest != self.digest:
            raise ValueError(f"path must not change while it is used, but the pictures of {self.folder} did")
        for start in range(0, len(names), _CHUNK):
            part = names[start : start + _CHUNK]
            yield torch.stack([read_picture(Path(self.folder) / name, self.size) for name in part])


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


def read_picture(path: Path, size: int) -> torch.Tensor:
    """One file as uint8 RGB (3, size, size): the largest centred square, resized.

    Raises:
        ValueError: the file cannot be decoded; the message names it.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode[0] in "IF":  # 16 bits, in some formats as 32 or as floats: PIL would clip them to white
                image = Image.fromarray(_to_eight_bits(np.asarray(image), image.mode.startswith("I;16")))
            image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError... besides OSError
        raise ValueError(f"picture {path} cannot be read ({type(error).__name__}: {error})") from error


def _to_eight_bits(grey: np.ndarray, sixteen: bool) -> np.ndarray:
    """Upper 8 of 16 bits. Levels of 32 bits or floats count as 16-bit ones where one of them is above 255."""
    import numpy as np

    levels = np.nan_to_num(grey.astype(np.float64), posinf=65535.0)
    if sixteen or levels.max(initial=0.0) > 255.0:
        levels = np.floor(levels / 256.0)
    return np.clip(levels, 0.0, 255.0).astype(np.uint8)


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


def list_pictures(folder: Path) -> tuple[list[str], str]:
    """Names of the pictures in a folder and its sub-folders, sorted, and a digest of names, lengths and times."""
    from PIL import Image

    Image.init()
    endings = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN} - _NOT_PICTURES
    found: list[tuple[str, int, int]] = []

    def refuse(error: OSError) -> None:
        raise ValueError(
            f"path must be a readable folder of pictures, but {error.filename}: {error.strerror}"
        ) from error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            full = Path(root) / name
            if not name.startswith((".", SHEET)) and full.suffix.lower() in endings and full.is_file():
                status = full.stat()
                found.append((full.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    found.sort()
    digest = hashlib.sha256(repr((str(folder), found)).encode()).hexdigest()[:20]
    return [name for name, _, _ in found], digest
