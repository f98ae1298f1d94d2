"""What every set of pictures can do: kept in a file or in memory, picked for each image of a batch, shown, resized."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mixaug._checks import (
    MAX_BATCH,
    MAX_PICTURES,
    MAX_SIDE,
    check_generator,
    check_int,
    check_number,
    check_range,
    check_size,
    kind_of,
)
from mixaug._random import drawn_by
from mixaug._records import Rule, Rules, check_record, kept, reads_values
from mixaug.data import has_pictures, load_pictures
from mixaug.mixing_sets.cache import Growing, cache_path, load_or_make, open_cached
from mixaug.mixing_sets.export import contact_sheet
from mixaug.mixing_sets.recipes import PicturesRecipe, ResizedRecipe, SyntheticRecipe, resize, resized_chunks
from mixaug.mixing_sets.threads import with_progress

if TYPE_CHECKING:
    from PIL import Image


_CHUNK = 16  # pictures that are made before the bar moves, a quarter of a second
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
#: Most that a picture is enlarged by: the side of a resized picture stays one that memory can hold.
MAX_SCALE = 100.0


@dataclass(frozen=True)
class PickParams:
    """Which part of which picture B images get.

    Args:
        size: (H, W) of the images.
        side: side in pixels of the resized pictures that are read; one for all, so that a set keeps one copy.
        index: (B,) int64, which picture.
        scale: (B,) float32, at least 1: the picture is resized so that its side is ``scale`` times the image's longer
            side.
        top, left: (B,) float32 in [0, 1], place of the crop: 0 at the upper or left end, 1 at the other.
        flip: (B,) bool, mirrored left to right.
    """

    size: tuple[int, int]
    side: int
    index: Tensor
    scale: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    def to(self, device: torch.device | str) -> PickParams:
        """The same record with its tensors on ``device``."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name).to(device) for f in fields(self)[2:]}
        return replace(self, **moved)


def sample_picks(
    batch: int,
    size: tuple[int, int],
    pictures: int,
    scale: tuple[float, float] = (1.0, 1.5),
    flip: float = 0.5,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> PickParams:
    """Draws a `PickParams`: every picture equally likely, ``scale ~ U(scale)``, the crop's place uniform.

    Args:
        batch: number of images, 0 allowed.
        size: (H, W) of the images in pixels.
        pictures: number of pictures to choose from.
        scale: range of the scale, from 1 up.
        flip: probability of a mirrored picture.
        generator: of torch; its device counts. None: torch's default generator of ``device``.
        device: where the record is drawn. Default "cpu".
    """
    batch, size = check_int("batch", batch, 0, MAX_BATCH), check_size("size", size)
    pictures = check_int("pictures", pictures, 1, MAX_PICTURES)
    scale, flip = check_range("scale", scale, 1.0, MAX_SCALE), check_number("flip", flip, 0.0, 1.0)
    check_generator(generator)
    device = generator.device if generator is not None else torch.device(device)
    u = torch.rand(batch, 4, device=device, dtype=torch.float32, **drawn_by(generator))
    index = torch.randint(pictures, (batch,), device=device, **drawn_by(generator))
    low, high = scale
    side = math.ceil(high * max(size))
    return PickParams(size, side, index, low + (high - low) * u[:, 0], u[:, 1], u[:, 2], u[:, 3] < flip)


def check_picks(params: Any, pictures: int) -> PickParams:
    """The record as it may be used: of so many pictures, on one device, its values (read on the CPU) in range.

    Args:
        params: what was given as a record.
        pictures: number of pictures in the set.

    Raises:
        TypeError: the record, or a field of it, is of another kind or dtype.
        ValueError: a shape that does not fit, or a value out of range.

    Example:
        >>> check_picks(sample_picks(2, (32, 32), 5), 5).side
        48
    """
    if not isinstance(params, PickParams):
        raise TypeError(f"params must be PickParams, got {kind_of(params)}")
    if not isinstance(params.size, (tuple, list, torch.Size)) or len(params.size) != 2:
        raise TypeError(f"params.size must be a pair (H, W), got {kind_of(params.size)}")
    height, width = (check_int("params.size", side, 1, MAX_SIDE) for side in params.size)
    side = check_int("params.side", params.side, 1)
    if not isinstance(params.index, Tensor) or params.index.ndim != 1:
        raise TypeError(f"params.index must be a tensor (B,), got {kind_of(params.index)}")
    scale = params.scale
    if params.index.device.type == "meta" and isinstance(scale, Tensor) and scale.device.type != "meta":
        raise ValueError(f"params.index must be on {scale.device}, as the other fields, got meta")
    device, shape = params.index.device, tuple(params.index.shape)
    others = {
        len(value)
        for name in ("scale", "top", "left")
        if isinstance(value := getattr(params, name), Tensor) and value.ndim
    }
    if len(others) == 1 and others != {len(params.index)}:
        raise ValueError(f"params.index must have shape ({others.pop()},), as the other fields, got {shape}")
    params = check_record(params, _rules(shape, pictures), device, values=reads_values(device))
    return replace(params, size=(height, width), side=side)


@kept
def _rules(shape: tuple[int, ...], pictures: int) -> Rules:
    unit = Rule(torch.float32, shape, 0.0, 1.0)
    return Rules(
        index=Rule(torch.int64, shape, 0, pictures - 1),
        scale=Rule(torch.float32, shape, 1.0, MAX_SCALE),
        top=unit,
        left=unit,
        flip=Rule(torch.bool, shape),
    )


def crop_pictures(pictures: Tensor, params: PickParams) -> Tensor:
    """Carries a record out; no randomness.

    The pixel at row y of an image of H x W is the bilinear value of the picture at ``(o + y + 1/2) S / n - 1/2``, with
    ``n = scale max(H, W)`` the side of the resized picture and ``o = top (n - H)`` the offset of the crop; columns
    alike.

    Args:
        pictures: uint8 (N, 3, S, S); S is at best ``params.side``.
        params: for B images, on the same device.

    Returns:
        uint8 tensor (B, 3, H, W).

    Raises:
        TypeError: the record, or a field of it, is of another kind or dtype.
        ValueError: it does not fit the pictures, or a value of it is out of range (read on the CPU).
    """
    if not isinstance(pictures, Tensor) or pictures.dtype != torch.uint8 or pictures.ndim != 4:
        raise TypeError(f"pictures must be a uint8 tensor (N, 3, S, S), got {kind_of(pictures)}")
    return crop_checked(pictures, check_picks(params, len(pictures)))


def crop_checked(pictures: Tensor, params: PickParams) -> Tensor:
    """:func:`crop_pictures` of a record that is checked, or just drawn."""
    height, width = params.size
    side = params.scale * max(params.size)
    rows = params.top[:, None] * (side[:, None] - height) + torch.arange(height, device=pictures.device) + 0.5
    columns = params.left[:, None] * (side[:, None] - width) + torch.arange(width, device=pictures.device) + 0.5
    columns = torch.where(params.flip[:, None], columns.flip(1), columns)
    # grid_sample's own units: -1 and 1 are the outer edges of the picture, the middle of pixel k is (2k + 1) / S - 1.
    y, x = 2 * rows / side[:, None] - 1, 2 * columns / side[:, None] - 1
    shape = len(side), height, width
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)
    chosen = pictures[params.index].to(torch.float32)
    cropped = torch.nn.functional.grid_sample(chosen, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.round_().clamp_(0, 255).to(torch.uint8)


class PictureBank(ABC):
    """Base of the sets: showing, saving and picking, from `pictures` and `resized`."""

    @property
    @abstractmethod
    def pictures(self) -> torch.Tensor:
        """All pictures, uint8 (N, 3, S, S) on the CPU. Shared: do not write."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of the pictures in pixels."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def resized(self, side: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """All pictures at another side, uint8 (N, 3, side, side) on ``device``. Shared: do not write."""

    def serving(self, side: int, index: torch.Tensor) -> torch.Tensor:
        """As ``resized(side, index.device)``, where only the pictures at ``index`` have to be made."""
        return self.resized(side, index.device)

    @property
    @abstractmethod
    def _stem(self) -> str:
        """Beginning of the names of saved pictures; empty where nothing tells the pictures from others."""

    def __getitem__(self, index: int | slice) -> torch.Tensor:
        """A copy of one picture, uint8 (3, S, S), or of several, (n, 3, S, S), for a slice."""
        if isinstance(index, slice):
            return self.pictures[index].clone()
        if isinstance(index, bool | type) or not hasattr(index, "__index__"):
            raise TypeError(f"index must be an int or a slice, got {type(index).__name__}: {index!r}")
        place = index.__index__()
        if not -len(self) <= place < len(self):
            raise IndexError(f"index must be from {-len(self)} to {len(self) - 1}, got {place}")
        return self.pictures[place].clone()

    def preview(self, count: int = 64, side: int = 128) -> Image.Image:
        """A contact sheet of the first pictures, as square as it gets.

        Args:
            count: how many pictures at most, at least 1. Default 64.
            side: side of each in pixels, at least 1. Default 128.

        Returns:
            A PIL image, RGB.

        Raises:
            TypeError: an argument is not an int.
            ValueError: it is below 1.

        Example:
            >>> from mixaug import MixingSet
            >>> MixingSet.from_tensor(torch.zeros(5, 3, 16, 16, dtype=torch.uint8)).preview(side=10).size
            (30, 20)
        """
        count = check_int("count", count, 1, MAX_PICTURES)
        side = check_int("side", side, 1, MAX_SIDE)
        return contact_sheet(resize(self.pictures[:count], int(side)))

    def pick(
        self,
        batch: int,
        size: int | tuple[int, int],
        *,
        scale: tuple[float, float] = (1.0, 1.5),
        flip: float = 0.5,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
    ) -> torch.Tensor:
        """A random part of a random picture for each image of a batch.

        Each image gets a picture of its own, resized so that its side is ``scale`` times the image's longer side,
        cropped at a uniform place, and mirrored with probability ``flip``.

        Convention: everything is drawn per image. Bilinear, rounded to the nearest level.

        Args:
            batch: number of images, at least 0.
            size: side, or (H, W), of the images in pixels.
            scale: range of the uniform scale, at least 1. Default (1, 1.5).
            flip: probability in [0, 1]. Default 0.5.
            generator: of torch; None: torch's default generator of ``device``.
            device: of the result. Default "cpu".

        Shape:
            uint8 (batch, 3, H, W) in [0, 255].

        Returns:
            A new tensor.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: an argument is out of range.

        Example:
            >>> from mixaug import MixingSet
            >>> pictures = MixingSet.from_tensor(torch.zeros(5, 3, 64, 64, dtype=torch.uint8))
            >>> pictures.pick(8, (20, 32), generator=torch.Generator().manual_seed(0)).shape
            torch.Size([8, 3, 20, 32])
        """
        batch = check_int("batch", batch, 0, MAX_BATCH)
        where = torch.device(device)
        height, width = check_size("size", size if isinstance(size, tuple | list | torch.Size) else (size, size))
        low, high = check_range("scale", scale, 1.0, MAX_SCALE)
        flip = check_number("flip", flip, 0.0, 1.0)
        drawn = sample_picks(batch, (height, width), len(self), (low, high), flip, generator, where)
        return self._crop(drawn.to(where))

    def crop(self, params: PickParams) -> torch.Tensor:
        """Carries out a record of `mixaug.mixing_sets.sample_picks`: no randomness.

        Args:
            params: the record; the result is on its device.

        Returns:
            uint8 tensor (B, 3, H, W).

        Raises:
            TypeError: the record, or a field of it, is of another kind or dtype (compact ones are cast).
            ValueError: it does not fit the set, or a value of it is out of range (read on the CPU).

        Example:
            >>> from mixaug import MixingSet
            >>> from mixaug.mixing_sets import sample_picks
            >>> pictures = MixingSet.from_tensor(torch.zeros(5, 3, 64, 64, dtype=torch.uint8))
            >>> pictures.crop(sample_picks(2, (32, 32), len(pictures))).shape
            torch.Size([2, 3, 32, 32])
        """
        return self._crop(check_picks(params, len(self)))

    def _crop(self, params: PickParams) -> torch.Tensor:
        return crop_checked(self.serving(min(self.size, params.side), params.index), params)

    def save(self, folder: str | os.PathLike[str], progress: bool | None = None) -> list[Path]:
        """Writes every picture as a PNG file.

        Convention: names carry what tells the pictures apart (source, kinds, size, seed, index), and each file is
        written whole or not at all; a file of the same pixels that is there already is kept, so a stopped save goes on
        where it was.

        Args:
            folder: made if it is missing.
            progress: shows a bar; None: on a terminal. Default None.

        Returns:
            The paths, in order.

        Raises:
            TypeError: ``folder`` is not a path.
            ValueError: it cannot be written into.
            OSError: the disk is full; what is whole stays there.

        Example:
            >>> import tempfile
            >>> from mixaug import MixingSet
            >>> pictures = MixingSet.from_tensor(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
            >>> [path.name for path in pictures.save(tempfile.mkdtemp())]
            ['picture-000000.png', 'picture-000001.png']
        """
        from mixaug.mixing_sets.export import save_set

        return save_set(self.pictures, folder, self._stem or "picture", progress)


class KeptPictures(PictureBank):
    """What `mixaug.MixingSet` keeps and how: the recipe, the file it is mapped from, the sides that were asked for."""

    def __init__(
        self,
        recipe: PicturesRecipe | None = None,
        pictures: torch.Tensor | None = None,
        progress: bool | None = None,
    ) -> None:
        if recipe is None and pictures is None:
            raise ValueError("MixingSet needs a recipe or pictures; use MixingSet.fractals, from_folder or from_tensor")
        self._recipe = recipe
        self._pictures = pictures
        self._progress = progress
        self._path: Path | None = None
        self._resized: dict[tuple[int, str], torch.Tensor] = {}
        self._growing: dict[int, Growing] = {}

    @property
    def pictures(self) -> torch.Tensor:
        """All pictures, uint8 (N, 3, S, S) on the CPU; made, or mapped, at the first use. Shared: do not write."""
        if self._pictures is None:
            self._pictures = self._load(self._source)
        return self._pictures

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self._shape[3]

    @property
    def path(self) -> Path | None:
        """The file that the pictures are mapped from; None while they are not made, or in memory."""
        return self._path

    def __len__(self) -> int:
        return self._shape[0]

    def resized(self, side: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """The whole set at another side, kept for the next call.

        Convention: antialiased bilinear, rounded to the nearest level. On the CPU the result is mapped from a cache
        file of its own, so that loader workers share one copy and none makes it again.

        Args:
            side: side in pixels, at least 1.
            device: where the result lives. Default "cpu".

        Returns:
            Contiguous uint8 tensor (N, 3, side, side). Shared: do not write to it.

        Raises:
            TypeError: ``side`` is not an int.
            ValueError: it is below 1.

        Example:
            >>> from mixaug import MixingSet
            >>> MixingSet.from_tensor(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).resized(40).shape
            torch.Size([2, 3, 40, 40])
        """
        side = check_int("side", side, 1, MAX_SIDE)
        where = torch.device(device)
        key = int(side), str(where)
        if key not in self._resized:
            if where.type != "cpu":
                self._resized[key] = self.resized(side).to(where)
            elif side == self.size:
                self._resized[key] = self.pictures
            else:
                self._resized[key] = self._resize(int(side))
        return self._resized[key]

    def serving(self, side: int, index: torch.Tensor) -> torch.Tensor:
        """All pictures at a side; of a synthetic set, those at ``index`` alone are made, when they are first asked for.

        Convention: a picture is the same whenever it is made, so that a draw gives the same result at any time.

        Args:
            side: in pixels, at least 1.
            index: whole numbers from 0 to N - 1, of any shape, on the device of the result; others are passed over.
                Pictures are made one by one on the CPU only, and not on Windows.

        Returns:
            uint8 tensor (N, 3, side, side). Shared: do not write to it; only the rows at ``index`` are pictures.

        Raises:
            TypeError: ``side`` is not an int, ``index`` no tensor of whole numbers.
            ValueError: ``side`` is below 1.

        Example:
            >>> from mixaug import MixingSet
            >>> pictures = MixingSet.fractals(2, size=16, seed=8)
            >>> torch.equal(pictures.serving(16, torch.tensor([1]))[1], pictures[1])
            True
        """
        side = int(check_int("side", side, 1, MAX_SIDE))
        if (
            not isinstance(index, Tensor)
            or index.is_floating_point()
            or index.is_complex()
            or index.dtype == torch.bool
        ):
            raise TypeError(f"index must be a tensor of whole numbers, got {kind_of(index)}")
        growing = self._growing.get(side)
        if growing is None:
            plain = index.device.type == "cpu" and type(index) is Tensor and not torch.compiler.is_compiling()
            made = self._path is not None or self._pictures is not None or (side, "cpu") in self._resized
            if made or not plain or os.name != "posix" or not isinstance(self._recipe, SyntheticRecipe):
                return self.resized(side, index.device)
            recipe = self._recipe if side == self.size else ResizedRecipe(self._recipe, side)
            if has_pictures(recipe.stem) or open_cached(cache_path(recipe), recipe.shape) is not None:
                return self.resized(side)
            growing = self._growing[side] = Growing(recipe)

        def make(rows: Sequence[int]) -> Iterator[torch.Tensor]:
            pieces = (growing.recipe.rows(rows[k : k + _CHUNK]) for k in range(0, len(rows), _CHUNK))
            title = f"{len(rows)} new pictures of {len(self)}"
            return with_progress(pieces, len(rows), title, self._progress) if len(rows) > _CHUNK else pieces

        served = growing.serve(index.numpy(), make)
        if growing.whole:
            self._growing.pop(side)
            if growing.path is None:
                self._resized[side, "cpu"] = served
        return served

    def __repr__(self) -> str:
        title = f"{len(self)} pictures of {self.size} px" if self._recipe is None else self._recipe.title
        if self._path is not None:
            state = f"cached in {self._path}"
        else:
            made = "made when they are asked for" if self._growing else "not made yet"
            state = made if self._pictures is None else "in memory"
        return f"{type(self).__name__}({title}; {state})"

    # --- inside -------------------------------------------------------------------------------------------------

    @property
    def _stem(self) -> str:
        if self._recipe is None:
            return ""
        return self._recipe.pictures_stem if isinstance(self._recipe, SyntheticRecipe) else self._recipe.stem

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.pictures.shape) if self._recipe is None else self._recipe.shape

    @property
    def _source(self) -> PicturesRecipe:
        if self._recipe is None:
            raise RuntimeError("this MixingSet has neither pictures nor a recipe to make them")
        return self._recipe

    def _load(self, recipe: PicturesRecipe) -> torch.Tensor:
        if self._path is not None:  # after unpickling: the file of the sender, whatever this process' cache folder
            pictures = open_cached(self._path, recipe.shape)
            if pictures is not None:
                return pictures

        def chunks() -> Iterator[torch.Tensor]:
            return with_progress(recipe.chunks(), len(self), recipe.title, self._progress)

        pictures, self._path = load_or_make(recipe, chunks)
        return pictures

    def _resize(self, side: int) -> torch.Tensor:
        """Mapped from a file beside the pictures' own; in memory when they are in memory."""
        in_memory = self._path is None and self._pictures is not None
        if self._recipe is not None and not in_memory:
            # Without touching the full-size pictures: a worker that finds the small file needs nothing else.
            folder = None if self._path is None else self._path.parent
            recipe = ResizedRecipe(self._recipe, side)

            def chunks() -> Iterator[torch.Tensor]:
                ready = load_pictures(recipe.stem, recipe.shape)
                return resized_chunks(self.pictures, side) if ready is None else iter([ready])

            return load_or_make(recipe, chunks, folder)[0]
        return torch.cat(list(resized_chunks(self.pictures, side)))

    def __getstate__(self) -> dict[str, Any]:
        in_memory = self._path is None and self._pictures is not None
        return {
            "recipe": self._recipe,
            "path": self._path,
            "pictures": self._pictures if in_memory else None,
            "progress": self._progress,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._recipe, self._path = state["recipe"], state["path"]
        self._pictures, self._progress = state["pictures"], state["progress"]
        self._resized, self._growing = {}, {}
