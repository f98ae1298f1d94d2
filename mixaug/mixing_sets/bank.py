"""The bank of pictures that mixing transforms draw from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mixaug._checks import MAX_PICTURES, MAX_SIDE, check_flag, check_int, check_seed
from mixaug.mixing_sets.pictures import KeptPictures
from mixaug.mixing_sets.recipes import (
    MixtureRecipe,
    SyntheticRecipe,
    check_weights,
    mixed_chunks,
    mixture_counts,
    scan_folder,
)
from mixaug.mixing_sets.sources import MIN_SIZE, check_kinds, source_of

if TYPE_CHECKING:
    from mixaug.mixing_sets.streaming import StreamingSet

_default: MixingSet | None = None


class MixingSet(KeptPictures):
    """A set of square RGB pictures to mix into images: synthetic ones, a folder, a tensor, or a mixture of sets.

    The pictures live in one memory-mapped file of the user's cache folder (``$MIXAUG_CACHE`` replaces the folder), made
    once, by the first process that needs them, and shared by all; where no file can be written they are kept in memory,
    after one warning.

    Convention: pictures are uint8 in [0, 255], channel order RGB. Making a set object is cheap: synthetic pictures are
    made at the first use of their pixels. A pickle holds the path and how to make the pictures again, not the pictures
    (a set from a tensor, or one that could not be cached, sends its tensor).

    Args:
        recipe: how the pictures are made; use `fractals` and the other constructors instead.
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

    @classmethod
    def fractals(
        cls,
        count: int = 512,
        size: int = 256,
        seed: int = 0,
        progress: bool | None = None,
        *,
        kinds: str | Sequence[str] | None = None,
    ) -> MixingSet:
        """Escape-time orbit-trap fractals in colour (see `mixaug.mixing_sets.fractals`).

        Convention: picture i of a seed is the same for every count and on every machine; nothing is made until the
        first use.

        Args:
            count: how many, at least 1. Default 512 (about 100 MB at 256 px).
            size: side in pixels, at least 8. Default 256.
            seed: 0 to 2^63 - 1. Default 0.
            progress: shows a bar while they are made; None: on a terminal. Never in workers. Default None.
            kinds: families of maps to draw from, "julia", "newton", ...; None: all (the names are
                `mixaug.mixing_sets.fractals.KINDS`).

        Returns:
            A `MixingSet` of ``count`` pictures.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: an argument is out of range, or a kind unknown.

        Example:
            >>> MixingSet.fractals(16, size=64, seed=1)
            MixingSet(16 fractals of 64 px, seed 1; not made yet)
        """
        return cls._synthetic("fractals", count, size, seed, progress, kinds)

    @classmethod
    def ifs(
        cls,
        count: int = 512,
        size: int = 256,
        seed: int = 0,
        progress: bool | None = None,
        *,
        kinds: str | Sequence[str] | None = None,
    ) -> MixingSet:
        """Attractors of random iterated function systems, as in FractalDB (see `mixaug.mixing_sets.ifs`).

        Args:
            count, size, seed, progress: as in `fractals`.
            kinds: renderings to draw from, "points" or "patches"; None: all.

        Returns:
            A `MixingSet` of ``count`` pictures.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: an argument is out of range, or a kind unknown.

        Example:
            >>> MixingSet.ifs(16, size=64)
            MixingSet(16 IFS fractals of 64 px, seed 0; not made yet)
        """
        return cls._synthetic("ifs", count, size, seed, progress, kinds)

    @classmethod
    def contours(
        cls,
        count: int = 512,
        size: int = 256,
        seed: int = 0,
        progress: bool | None = None,
        *,
        kinds: str | Sequence[str] | None = None,
    ) -> MixingSet:
        """Nested radial contours, as in RCDB (see `mixaug.mixing_sets.contours`).

        Args:
            count, size, seed, progress: as in `fractals`.
            kinds: variants to draw from; None: all (the names are `mixaug.mixing_sets.contours.KINDS`).

        Returns:
            A `MixingSet` of ``count`` pictures.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: an argument is out of range, or a kind unknown.

        Example:
            >>> MixingSet.contours(16, size=64)
            MixingSet(16 radial contours of 64 px, seed 0; not made yet)
        """
        return cls._synthetic("contours", count, size, seed, progress, kinds)

    @classmethod
    def dead_leaves(
        cls,
        count: int = 512,
        size: int = 256,
        seed: int = 0,
        progress: bool | None = None,
        *,
        kinds: str | Sequence[str] | None = None,
    ) -> MixingSet:
        """Shapes of all sizes that cover each other (see `mixaug.mixing_sets.dead_leaves`).

        Args:
            count, size, seed, progress: as in `fractals`.
            kinds: "squares", "oriented", "shapes" or "textured" leaves; None: all.

        Returns:
            A `MixingSet` of ``count`` pictures.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: an argument is out of range, or a kind unknown.

        Example:
            >>> MixingSet.dead_leaves(16, size=64)
            MixingSet(16 dead leaves of 64 px, seed 0; not made yet)
        """
        return cls._synthetic("dead-leaves", count, size, seed, progress, kinds)

    @classmethod
    def spectrum(
        cls,
        count: int = 512,
        size: int = 256,
        seed: int = 0,
        progress: bool | None = None,
        *,
        kinds: str | Sequence[str] | None = None,
    ) -> MixingSet:
        """Noise with the statistics of photographs (see `mixaug.mixing_sets.spectrum`).

        Args:
            count, size, seed, progress: as in `fractals`.
            kinds: "spectrum" for 1/f^a noise, "wavelet" for wavelet marginals, ...; None: all.

        Returns:
            A `MixingSet` of ``count`` pictures.

        Raises:
            TypeError: an argument is of another kind.
            ValueError: an argument is out of range, or a kind unknown.

        Example:
            >>> MixingSet.spectrum(16, size=64)
            MixingSet(16 spectrum pictures of 64 px, seed 0; not made yet)
        """
        return cls._synthetic("spectrum", count, size, seed, progress, kinds)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], size: int = 256, progress: bool | None = None) -> MixingSet:
        """The pictures of a folder and its sub-folders, in the order of their names.

        Convention: each picture is turned upright, converted to RGB (of 16 bits the upper 8 are taken; floats are
        refused), cut to its largest centred square and resized. Other files and names that begin with a dot are passed
        over; links are followed, and each file counts once. The decoded pictures are cached; a file that is added,
        removed or changed makes the cache be made again.

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
        size = check_int("size", size, MIN_SIZE, MAX_SIDE)
        made = cls(
            scan_folder(path, int(size)), progress=None if progress is None else check_flag("progress", progress)
        )
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
        if len(shape) != 4 or shape[0] < 1 or shape[1] not in (1, 3) or shape[2] != shape[3] or shape[3] < MIN_SIZE:
            raise ValueError(
                f"pictures must have shape (N, 3, S, S) or (N, 1, S, S) with N >= 1 and S >= {MIN_SIZE}, got {shape}"
            )
        copy = torch.empty((shape[0], 3, shape[2], shape[3]), dtype=torch.uint8)
        copy.copy_(pictures.detach())  # broadcasts grey
        return cls(pictures=copy)

    @classmethod
    def mixture(
        cls,
        sets: Sequence[MixingSet],
        weights: Sequence[float] | None = None,
        count: int | None = None,
        size: int | None = None,
        progress: bool | None = None,
    ) -> MixingSet:
        """The first pictures of several sets as one set, evenly interleaved; no picture is taken twice.

        Convention: a set k gets ``weights[k] * count`` of the pictures (largest remainders), so that a picture drawn at
        random comes from it with that probability.

        Args:
            sets: one `MixingSet` or more.
            weights: one share for each set, at least 0, with sum 1; None: in proportion to their lengths.
            count: pictures in all; None: as many as the sets have for these weights.
            size: side in pixels, at least 8; None: that of the smallest.
            progress: as in `fractals`. Default None.

        Returns:
            A `MixingSet`, made at the first use; in memory where a set without a recipe takes part (`from_tensor`).

        Raises:
            TypeError: ``sets`` holds something else, or an argument is of another kind.
            ValueError: no set, weights that do not fit or do not sum to 1, or a count that is too large or too small.

        Example:
            >>> both = MixingSet.mixture([MixingSet.fractals(60, size=64), MixingSet.ifs(60, size=64)], [0.75, 0.25])
            >>> len(both)
            80
        """
        if not isinstance(sets, Sequence) or not all(isinstance(part, MixingSet) for part in sets):
            raise TypeError(f"sets must be a sequence of MixingSet, got {sets!r}")
        if not sets:
            raise ValueError("sets must hold at least one MixingSet, got none")
        side = min(part.size for part in sets) if size is None else size
        side = check_int("size", side, MIN_SIZE, MAX_SIDE)
        shares = check_weights(weights, len(sets))
        chosen = [k for k in range(len(sets)) if shares is None or shares[k] > 0]
        parts = [sets[k] for k in chosen]
        shares = None if shares is None else [shares[k] for k in chosen]
        counts = mixture_counts([len(part) for part in parts], shares, count)
        recipes = [part._recipe for part in parts if part._recipe is not None]
        if len(recipes) == len(parts):
            recipe = MixtureRecipe(tuple(recipes), tuple(counts), int(side))
            return cls(recipe, progress=None if progress is None else check_flag("progress", progress))
        return cls(pictures=torch.cat(list(mixed_chunks([part.resized(side) for part in parts], counts))))

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

    def stream(self, *, threads: int = 1, nice: int = 10, folder: str | os.PathLike[str] | None = None) -> StreamingSet:
        """The same pictures followed by endlessly many fresh ones, made in the background while a model trains.

        Args:
            threads: of the background process, at least 1. Default 1.
            nice: its priority, from 0, that of the trainer, to 19. Default 10.
            folder: where the shared pictures are kept; None: in shared memory.

        Returns:
            A `mixaug.mixing_sets.StreamingSet`, to be given to a transform in place of this set.

        Raises:
            TypeError: the pictures are not all from synthetic sources, so there are no next ones.
            ValueError: an argument is out of range.

        Example:
            >>> with MixingSet.fractals(2, size=16).stream() as pictures:
            ...     len(pictures), pictures.resized(8).shape
            (2, torch.Size([2, 3, 8, 8]))
        """
        from mixaug.mixing_sets.streaming import StreamingSet
        from mixaug.mixing_sets.streaming.supervisor import endless_recipe

        return StreamingSet.from_recipe(
            endless_recipe(self._recipe), threads=threads, nice=nice, folder=folder, progress=self._progress
        )

    @classmethod
    def _synthetic(
        cls,
        source: str,
        count: int,
        size: int,
        seed: int,
        progress: bool | None,
        kinds: str | Sequence[str] | None,
    ) -> MixingSet:
        count = check_int("count", count, 1, MAX_PICTURES)
        size = check_int("size", size, MIN_SIZE, MAX_SIDE)
        seed = check_seed("seed", seed)
        known = source_of(source).kinds
        chosen = check_kinds(kinds, known)
        recipe = SyntheticRecipe(source, int(count), int(size), int(seed), None if chosen == known else chosen)
        return cls(recipe, progress=None if progress is None else check_flag("progress", progress))
