"""What every set of pictures can do, however it came by them."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mixaug._checks import MAX_BATCH, MAX_PICTURES, MAX_SIDE, check_int, check_number, check_range, check_size
from mixaug.mixing_sets._picks import MAX_SCALE, PickParams, check_picks, crop_checked, sample_picks
from mixaug.mixing_sets._recipes import resize

if TYPE_CHECKING:
    from PIL import Image


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
        return crop_checked(self.resized(min(self.size, params.side), params.index.device), params)

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
        from mixaug.mixing_sets._saving import save_set

        return save_set(self.pictures, folder, self._stem or "picture", progress)


def contact_sheet(pictures: torch.Tensor) -> Image.Image:
    """Pictures uint8 (N, 3, S, S) side by side, as square as it gets."""
    from PIL import Image

    side = pictures.shape[-1]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = torch.full((rows * columns, 3, side, side), 255, dtype=torch.uint8)
    sheet[: len(pictures)] = pictures
    sheet = sheet.reshape(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, -1, 3)
    return Image.fromarray(sheet.contiguous().numpy())
