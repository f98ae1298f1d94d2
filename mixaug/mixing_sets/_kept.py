"""Pictures that are made once and kept: mapped from one file, or in memory where there is no place for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mixaug._checks import MAX_SIDE, check_int
from mixaug.mixing_sets._cache import load_or_make, open_cached
from mixaug.mixing_sets._progress import with_progress
from mixaug.mixing_sets._recipes import PicturesRecipe, ResizedRecipe, SyntheticRecipe, resized_chunks
from mixaug.mixing_sets._serving import PictureBank


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

    def __repr__(self) -> str:
        title = f"{len(self)} pictures of {self.size} px" if self._recipe is None else self._recipe.title
        if self._path is not None:
            state = f"cached in {self._path}"
        else:
            state = "not made yet" if self._pictures is None else "in memory"
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
