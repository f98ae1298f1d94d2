"""The bank of pictures that mixing transforms draw from."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixaug.mixing_sets._cache import load_or_make, open_cached
from mixaug.mixing_sets._checks import check_int
from mixaug.mixing_sets._progress import with_progress
from mixaug.mixing_sets._recipes import (
    FolderRecipe,
    ResizedRecipe,
    SyntheticRecipe,
    resize,
    resized_chunks,
    scan_folder,
)

if TYPE_CHECKING:
    from PIL import Image

_MIN_SIZE = 8
_default: MixingSet | None = None


class MixingSet:
    """A set of square RGB pictures to mix into images: fractals, a folder, or a tensor.

    The pictures live in one memory-mapped file of the user's cache folder (``$MIXAUG_CACHE`` replaces the folder), made
    once, by the first process that needs them, and shared by all; where no file can be written they are kept in memory,
    after one warning.

    Convention: pictures are uint8 in [0, 255], channel order RGB. Making a set object is cheap: fractals are made at
    the first use of their pixels. A pickle holds the path and how to make the pictures again, not the pictures (a set
    from a tensor, or one that could not be cached, sends its tensor).

    Args:
        recipe: how the pictures are made; use `fractals`, `from_folder`, `from_tensor` or `default` instead.
        pictures: uint8 (N, 3, S, S), already made.
        progress: shows a bar while pictures are made; None: on a terminal. Never in workers. Default None.

    Note:
        Tensors of `pictures` and `resized` are shared; do not write to them. (The file itself cannot be changed through
        them: the map is private.)

    Example:
        >>> pictures = MixingSet.from_tensor(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
        >>> len(pictures), pictures[0].shape, pictures.resized(8).shape
        (2, torch.Size([3, 16, 16]), torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self,
        recipe: SyntheticRecipe | FolderRecipe | None = None,
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

    # --- making one ---------------------------------------------------------------------------------------------

    @classmethod
    def fractals(cls, count: int = 512, size: int = 256, seed: int = 0, progress: bool | None = None) -> MixingSet:
        """Escape-time orbit-trap fractals in colour (see `mixaug.mixing_sets.fractals`).

        Convention: picture i of a seed is the same for every count and on every machine; nothing is made until the
        first use.

        Args:
            count: how many, at least 1. Default 512 (about 100 MB at 256 px).
            size: side in pixels, at least 8. Default 256.
            seed: 0 to 2^63 - 1. Default 0.
            progress: shows a bar while they are made; None: on a terminal. Never in workers. Default None.

        Returns:
            A `MixingSet` of ``count`` pictures.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: an argument is out of range.

        Example:
            >>> MixingSet.fractals(16, size=64, seed=1)
            MixingSet(16 fractals of 64 px, seed 1; not made yet)
        """
        check_int("count", count, 1)
        check_int("size", size, _MIN_SIZE)
        check_int("seed", seed, 0)
        return cls(SyntheticRecipe("fractals", int(count), int(size), int(seed)), progress=_check_progress(progress))

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], size: int = 256, progress: bool | None = None) -> MixingSet:
        """The pictures of a folder and its sub-folders, in the order of their names.

        Convention: each picture is turned upright, converted to RGB, cut to its largest centred square and resized.
        Other files and names that begin with a dot are passed over. The decoded pictures are cached; a file that is
        added, removed or changed makes the cache be made again.

        Args:
            path: the folder.
            size: side in pixels, at least 8. Default 256. A picture takes 3 size^2 bytes on the disk.
            progress: as in `fractals`. Default None.

        Returns:
            A `MixingSet`, already made.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: no readable folder, no picture in it, or a broken one (which is named).

        Example:
            >>> import tempfile, os
            >>> from PIL import Image
            >>> folder = tempfile.mkdtemp()
            >>> Image.new("L", (40, 30), 128).save(os.path.join(folder, "grey.png"))
            >>> len(MixingSet.from_folder(folder, size=16))
            1
        """
        check_int("size", size, _MIN_SIZE)
        made = cls(scan_folder(path, int(size)), progress=_check_progress(progress))
        _ = made.pictures  # now, so that a broken picture is reported here and not in a worker
        return made

    @classmethod
    def from_tensor(cls, pictures: torch.Tensor) -> MixingSet:
        """A set of given pictures, copied and kept in memory.

        Args:
            pictures: uint8 (N, 3, S, S) in [0, 255], or (N, 1, S, S) grey; N at least 1, S at least 8.

        Returns:
            A `MixingSet` of N pictures.

        Raises:
            TypeError: not a uint8 tensor.
            ValueError: another shape.

        Example:
            >>> MixingSet.from_tensor(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
            MixingSet(2 pictures of 16 px; in memory)
        """
        if not isinstance(pictures, torch.Tensor):
            raise TypeError(f"pictures must be a uint8 tensor, got {type(pictures).__name__}")
        if pictures.dtype != torch.uint8:
            raise TypeError(f"pictures must be a uint8 tensor with values in [0, 255], got {pictures.dtype}")
        shape = tuple(pictures.shape)
        if len(shape) != 4 or shape[0] < 1 or shape[1] not in (1, 3) or shape[2] != shape[3] or shape[3] < _MIN_SIZE:
            raise ValueError(
                f"pictures must have shape (N, 3, S, S) or (N, 1, S, S) with N >= 1 and S >= {_MIN_SIZE}, got {shape}"
            )
        copy = torch.empty((shape[0], 3, shape[2], shape[3]), dtype=torch.uint8)
        copy.copy_(pictures.detach())  # broadcasts grey
        return cls(pictures=copy)

    @staticmethod
    def default() -> MixingSet:
        """``MixingSet.fractals(512, 256, seed=0)``, the same object at every call in a process.

        Example:
            >>> MixingSet.default() is MixingSet.default()
            True
        """
        global _default
        if _default is None:
            _default = MixingSet.fractals()
        return _default

    # --- using it -----------------------------------------------------------------------------------------------

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

    def __getitem__(self, index: int | slice) -> torch.Tensor:
        """A copy of one picture, uint8 (3, S, S), or of several, (n, 3, S, S), for a slice."""
        if isinstance(index, slice):
            return self.pictures[index].clone()
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(f"index must be an int or a slice, got {type(index).__name__}: {index!r}")
        place = index.__index__()
        if not -len(self) <= place < len(self):
            raise IndexError(f"index must be from {-len(self)} to {len(self) - 1}, got {place}")
        return self.pictures[place].clone()

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
            >>> MixingSet.from_tensor(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).resized(40).shape
            torch.Size([2, 3, 40, 40])
        """
        check_int("side", side, 1)
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
            >>> MixingSet.from_tensor(torch.zeros(5, 3, 16, 16, dtype=torch.uint8)).preview(side=10).size
            (30, 20)
        """
        from PIL import Image

        check_int("count", count, 1)
        check_int("side", side, 1)
        shown = resize(self.pictures[:count], int(side))
        columns = math.ceil(math.sqrt(len(shown)))
        rows = math.ceil(len(shown) / columns)
        sheet = torch.full((rows * columns, 3, side, side), 255, dtype=torch.uint8)
        sheet[: len(shown)] = shown
        sheet = sheet.reshape(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, -1, 3)
        return Image.fromarray(sheet.contiguous().numpy())

    def __repr__(self) -> str:
        title = f"{len(self)} pictures of {self.size} px" if self._recipe is None else self._recipe.title
        if self._path is not None:
            state = f"cached in {self._path}"
        else:
            state = "not made yet" if self._pictures is None else "in memory"
        return f"MixingSet({title}; {state})"

    # --- inside -------------------------------------------------------------------------------------------------

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.pictures.shape) if self._recipe is None else self._recipe.shape

    @property
    def _source(self) -> SyntheticRecipe | FolderRecipe:
        if self._recipe is None:
            raise RuntimeError("this MixingSet has neither pictures nor a recipe to make them")
        return self._recipe

    def _load(self, recipe: SyntheticRecipe | FolderRecipe) -> torch.Tensor:
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
            return load_or_make(recipe, lambda: resized_chunks(self.pictures, side), folder)[0]
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
        self._resized = {}


def _check_progress(progress: bool | None) -> bool | None:
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be True, False or None, got {type(progress).__name__}: {progress!r}")
    return progress
