"""The sources of a mixing set: each knows how to make its pictures again and what to call their cache file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mixaug.mixing_sets._cache import load_or_make
from mixaug.mixing_sets._sources import iter_pictures, source_of

_CHUNK = 32
# Documents, videos and measurements that PIL opens a page or frame of.
_NOT_PICTURES = {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".fits", ".fit", ".h5", ".hdf", ".grib", ".bufr"}


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
        kinds = "" if self.kinds is None else "-" + "+".join(self.kinds)
        version = source_of(self.source).version
        return f"{self.source}{version}{kinds}-n{self.count}-s{self.size}-seed{self.seed}"

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
class ResizedRecipe:
    """Another recipe's pictures at another side."""

    base: SyntheticRecipe | FolderRecipe
    side: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.base.shape[0], 3, self.side, self.side

    @property
    def stem(self) -> str:
        return f"{self.base.stem}-r{self.side}"

    def chunks(self) -> Iterator[torch.Tensor]:
        return resized_chunks(load_or_make(self.base)[0], self.side)


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
            if image.mode.startswith("I;16"):  # PIL clips 16 bits to white; keep the upper 8
                image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
            image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError... besides OSError
        raise ValueError(f"picture {path} cannot be read ({type(error).__name__}: {error})") from error


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
            if not name.startswith(".") and full.suffix.lower() in endings and full.is_file():
                status = full.stat()
                found.append((full.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    found.sort()
    digest = hashlib.sha256(repr((str(folder), found)).encode()).hexdigest()[:20]
    return [name for name, _, _ in found], digest
