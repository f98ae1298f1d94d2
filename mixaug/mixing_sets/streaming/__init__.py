"""Mixing sets that never end: fresh pictures, made in the background while a model trains."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock

from mixaug._checks import MAX_PICTURES, MAX_SIDE, MAX_THREADS, check_int, check_seed
from mixaug.mixing_sets.cache import warn_once
from mixaug.mixing_sets.pictures import KeptPictures, PictureBank
from mixaug.mixing_sets.recipes import PicturesRecipe
from mixaug.mixing_sets.sources import MIN_SIZE, check_kinds, source_of
from mixaug.mixing_sets.streaming.ring import (
    CONTROL,
    Control,
    DeviceCopy,
    Ring,
    RingFolder,
    create_ring,
    ring_path,
    ring_sides,
)
from mixaug.mixing_sets.streaming.supervisor import EndlessRecipe, EndlessSynthetic, Supervisor

MAX_SIDES = 8
NICE = 10


class StreamingSet(PictureBank):
    """A mixing set whose pictures are replaced by fresh ones all the time, the oldest first.

    It begins with the pictures 0 to ``count - 1`` of the seed, which are those of the finite `mixaug.MixingSet` and
    come from its cache. A process in the background makes pictures ``count``, ``count + 1``, ... and writes each over
    the oldest one. It takes only processor time that nobody else wants, and it stops ``count`` pictures after the last
    use. No call ever waits for a picture.

    Convention: the sequence of pictures is fixed by the seed; which of them are there at a training step depends on
    the speed of the machine. For runs that repeat bit for bit, use a finite set.

    The pictures lie in one file in shared memory (in the folder for temporary files where that is small), one for
    each side in use, of ``3 count side^2`` bytes, mapped by all processes. A pickle holds the path: loader workers,
    forked, spawned or forkserver ones, share the pictures and the one producer, which ends with the process that made
    the set, or at `close`.

    Args:
        source: "fractals", "ifs", "contours", "dead-leaves" or "spectrum". Default "fractals".
        count: pictures that are there at a time, at least 1. Default 512.
        size: side in pixels, at least 8. Default 256.
        seed: 0 to 2^63 - 1. Default 0.
        kinds: variants of the source to draw from; None: all.
        threads: of the producer, at least 1. Default 1.
        nice: its priority, from 0, that of the trainer, to 19, almost only time that nobody else wants. Default 10.
        folder: where the file is kept, for a folder of its own in it; None: as above.
        progress: as in `mixaug.MixingSet.fractals`, for the first pictures. Default None.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range, or names something unknown.

    Note:
        A reader of the CPU's tensors may see a picture that is half replaced, for the microseconds that it takes:
        still a picture, of two halves. Copies on other devices pass such pictures over. The last pictures
        stay in use, with one warning, if the producer dies twice, and the first ones if the file can no longer be
        opened. Each rank of a distributed run makes a set of its own: give them different seeds.

    Example:
        >>> with StreamingSet("fractals", count=2, size=16) as stream:
        ...     stream.resized(8).shape, len(stream), stream.made >= 2
        (torch.Size([2, 3, 8, 8]), 2, True)
    """

    def __init__(
        self,
        source: str = "fractals",
        count: int = 512,
        size: int = 256,
        seed: int = 0,
        kinds: str | Sequence[str] | None = None,
        *,
        threads: int = 1,
        nice: int = NICE,
        folder: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> None:
        known = source_of(source).kinds
        count = check_int("count", count, 1, MAX_PICTURES)
        size = check_int("size", size, MIN_SIZE, MAX_SIDE)
        seed = check_seed("seed", seed)
        chosen = check_kinds(kinds, known)
        recipe = EndlessSynthetic(source, int(count), int(size), int(seed), None if chosen == known else chosen)
        self._begin(recipe, threads, nice, folder, progress)

    @classmethod
    def from_recipe(
        cls,
        recipe: EndlessRecipe,
        *,
        threads: int = 1,
        nice: int = NICE,
        folder: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> StreamingSet:
        """A stream of any pictures.

        Args:
            recipe: what a `MixingSet` is made of, with a method ``pictures_from(start, chunk, threads)`` that yields
                pictures from an index on. It is pickled, and imported by the producer.
            threads, nice, folder, progress: as in the class.

        Raises:
            TypeError: the recipe has no such method, or an argument is of another kind.
            ValueError: an argument is out of range.
        """
        if not hasattr(recipe, "pictures_from"):
            raise TypeError(f"recipe must have a method pictures_from, got {type(recipe).__name__}")
        made = cls.__new__(cls)
        made._begin(recipe, threads, nice, folder, progress)
        return made

    def _set_up(self, recipe: EndlessRecipe, progress: bool | None) -> None:
        self._recipe = recipe
        self._progress = progress
        # It keeps the first pictures, and serves where there is no ring.
        self._first = KeptPictures(cast(PicturesRecipe, recipe), progress=progress)
        self._supervisor: Supervisor | None = None
        self._folder: Path | None = None
        self._control: Control | None = None
        self._rings: dict[int, Ring | None] = {}
        self._copies: dict[tuple[int, str], DeviceCopy] = {}

    def _begin(
        self,
        recipe: EndlessRecipe,
        threads: int,
        nice: int,
        folder: str | os.PathLike[str] | None,
        progress: bool | None,
    ) -> None:
        threads = check_int("threads", threads, 1, MAX_THREADS)
        nice = check_int("nice", nice, 0, 19)
        if folder is not None and not isinstance(folder, str | os.PathLike):
            raise TypeError(f"folder must be a path or None, got {type(folder).__name__}: {folder!r}")
        self._set_up(recipe, progress)
        parent = None if folder is None else Path(folder).expanduser().absolute()
        place: RingFolder | None = None
        try:
            place = RingFolder(parent, math.prod(recipe.shape))
            self._supervisor = Supervisor(place, recipe, int(threads), int(nice))
            weakref.finalize(self, self._supervisor.close)  # also at the end of the interpreter
            self._folder = place.path
            self._attach()
        except OSError as error:
            if self._supervisor is None and place is not None:
                place.close()
            self.close()
            warn_once(
                f"stream in {parent}",
                f"mixing pictures cannot be streamed ({error}); the first {len(self)} are used instead",
            )

    # --- using it -----------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self._recipe.shape[3]

    def __len__(self) -> int:
        """How many pictures are there at a time."""
        return self._recipe.shape[0]

    @property
    def pictures(self) -> torch.Tensor:
        """The pictures of this moment at full size, uint8 (N, 3, S, S) on the CPU; they change. Do not write."""
        return self.resized(self.size)

    def resized(self, side: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """The pictures of this moment at another side; never waits for fresh ones.

        Convention: antialiased bilinear, rounded to the nearest level, done by the producer. On the CPU the result is
        the shared memory itself, which goes on changing; on other devices it is a copy, in which each call replaces at
        most 1 MiB of pictures. After 8 different sides, further ones show the first pictures only.

        Args:
            side: side in pixels, at least 1.
            device: where the result lives. Default "cpu".

        Returns:
            Contiguous uint8 tensor (N, 3, side, side), the same one at each call. Shared: do not write to it.

        Raises:
            TypeError: ``side`` is not an int.
            ValueError: it is below 1.

        Example:
            >>> with StreamingSet("fractals", count=2, size=16) as stream:
            ...     stream.resized(8, "meta").shape
            torch.Size([2, 3, 8, 8])
        """
        side = check_int("side", side, 1, MAX_SIDE)
        where = torch.device(device)
        ring = self._ring(int(side))
        if ring is None:
            return self._first.resized(side, where)
        if self._control is not None:
            self._control.note_use()
        if where.type == "cpu":
            return ring.pictures
        key = int(side), str(where)
        if key not in self._copies:
            self._copies[key] = DeviceCopy(ring, where)
        else:
            self._copies[key].refresh()
        return self._copies[key].pictures

    def indices(self, side: int | None = None) -> torch.Tensor:
        """Which pictures of the seed are there now.

        Args:
            side: as in `resized`; each side is filled on its own. None: the full size.

        Returns:
            int64 (N,); -1 for a picture that is being replaced.

        Example:
            >>> with StreamingSet("fractals", count=2, size=16) as stream:
            ...     stream.indices().shape
            torch.Size([2])
        """
        side = self.size if side is None else side
        side = check_int("side", side, 1, MAX_SIDE)
        ring = self._ring(int(side))
        return torch.arange(len(self)) if ring is None else torch.from_numpy(ring.stamps.copy())

    @property
    def made(self) -> int:
        """How many pictures were made so far, the first ones included."""
        with suppress(OSError, ValueError):  # the file is gone
            self._attach()
        return len(self) if self._control is None else self._control.made

    def close(self) -> None:
        """Ends the producer and removes its file; the last pictures stay in use here. A second call does nothing."""
        self._folder = None
        if self._supervisor is not None:
            self._supervisor.close()

    def __enter__(self) -> StreamingSet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._folder is None else f"in {self._folder}"
        return f"StreamingSet({self._recipe.title}, and fresh ones; {self.made} made; {state})"

    # --- inside -------------------------------------------------------------------------------------------------

    @property
    def _stem(self) -> str:
        return ""

    def _ring(self, side: int) -> Ring | None:
        if side not in self._rings:
            self._rings[side] = self._open(side)
        return self._rings[side]

    def _attach(self) -> None:
        """Opens the counters; a pickle holds the folder only."""
        if self._control is None and self._folder is not None:
            self._control = Control(self._folder / CONTROL)

    def _open(self, side: int) -> Ring | None:
        """Maps the ring of a side, which the first process to ask makes; None: the first pictures serve."""
        folder = self._folder
        if folder is None:  # closed, or never begun
            return None
        try:
            self._attach()
            path = ring_path(folder, side)
            if not path.exists():
                os.stat(folder)  # the lock would make it again
                with FileLock(folder / "lock"):
                    if not path.exists():
                        if len(ring_sides(folder)) >= MAX_SIDES:
                            raise OSError(f"{MAX_SIDES} other sides are streamed already")
                        first = self._first.resized(side)
                        create_ring(path, first.split(32), len(self), side)
            return Ring(path, len(self), side)
        except (OSError, ValueError, NotImplementedError) as error:  # NotImplementedError: no locks there
            warn_once(
                str(folder),
                f"fresh mixing pictures of {side} px cannot be had ({error}); the first {len(self)} are used instead",
            )
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {"recipe": self._recipe, "folder": self._folder, "progress": self._progress}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_up(state["recipe"], state["progress"])
        self._folder = state["folder"]
