"""Pictures of a synthetic source as files: which are missing, and how they are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mixaug._files import atomic_path
from mixaug._pictures import read_tensor
from mixaug.mixing_sets._recipes import SHEET, SyntheticRecipe
from mixaug.mixing_sets._saving import picture_name, png_bytes, size_of, write_file, write_pictures
from mixaug.mixing_sets._serving import contact_sheet
from mixaug.mixing_sets._sources import CHUNK, iter_pictures

_SHOWN, _SIDE = 64, 128  # pictures of a contact sheet, and their side
_CHUNK_BYTES = 1 << 25  # pictures made at a time take at most this: a large one is made alone


@dataclass(frozen=True)
class Job:
    """Pictures of a source and seed as PNG files of a folder.

    Args:
        recipe: source, count, size, seed and kinds of the pictures.
        folder: where the files are.
    """

    recipe: SyntheticRecipe
    folder: Path

    @property
    def stem(self) -> str:
        """Beginning of the files' names: all that decides the pixels, and not the count."""
        return self.recipe.pictures_stem

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.folder / f"{SHEET}{self.stem}.png"

    def missing(self) -> list[tuple[int, int]]:
        """First picture and number of each run of pictures that have no whole file of the right size."""
        stem, side = self.stem, self.recipe.size
        there = {entry.name for entry in os.scandir(self.folder)}
        runs: list[tuple[int, int]] = []
        most = max(1, min(CHUNK, _CHUNK_BYTES // (3 * side**2)))
        for index in range(self.recipe.count):
            name = picture_name(stem, index)
            if name in there and size_of(self.folder / name) == (side, side):
                continue
            first, rows = runs[-1] if runs else (-1, 0)
            if first + rows == index and 0 < rows < most:
                runs[-1] = first, rows + 1
            else:
                runs.append((index, 1))
        return runs

    def make(self, first: int, rows: int, write: Callable[[Path, bytes], object] = write_file) -> None:
        """Makes the pictures of a run and has ``write`` write them, on this thread alone."""
        for path, picture in self._pictures(first, rows, 1):
            write(path, png_bytes(picture))

    def make_on_threads(self, runs: list[tuple[int, int]]) -> Iterator[tuple[Path]]:
        """Makes and writes the pictures of all runs on torch's number of threads; yields each file."""
        for path in write_pictures(item for run in runs for item in self._pictures(*run, None)):
            yield (path,)

    def _pictures(self, first: int, rows: int, threads: int | None) -> Iterator[tuple[Path, torch.Tensor]]:
        stem, recipe = self.stem, self.recipe
        pieces = iter_pictures(
            recipe.source,
            rows,
            recipe.size,
            recipe.seed,
            start=first,
            kinds=recipe.kinds,
            chunk=rows,
            threads=threads,
        )
        for index, picture in enumerate((picture for piece in pieces for picture in piece), first):
            yield self.folder / picture_name(stem, index), picture

    def write_sheet(self) -> None:
        """Writes the contact sheet from the first files, each reduced when it is read."""
        count = min(_SHOWN, self.recipe.count)
        shown = [read_tensor(self.folder / picture_name(self.stem, index), side=_SIDE) for index in range(count)]
        sheet = contact_sheet(torch.stack(shown))
        with atomic_path(self.sheet) as temporary:
            sheet.save(temporary, format="PNG")
