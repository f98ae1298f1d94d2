"""The one reader of pictures and the one walk of folders, for every folder of pictures and every PIL image.

**The reader.** A file becomes an upright 8-bit picture, RGB or grey:

- turned upright by its EXIF tag; of an animation the first frame;
- palettes, CMYK, 1 bit and pictures with alpha as by PIL's ``convert``, the way torchvision's ImageFolder does it:
  transparency is dropped, the colour below it shows;
- of 16 bits the upper 8 (0 to 65535 become 0 to 255), also where PIL gives them as 32: 16-bit PNG and PGM always, other
  pictures of 32-bit integers if their largest value is from 256 to 65535;
- refused, since nothing says what is white: other 32-bit integers, floats, TIFF of 12 bits;
- refused, with the file's name: whatever cannot be decoded, more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, and what
  is no regular file (opening a pipe would wait for ever).

**The walk.** All pictures below a folder, by their endings (`EXTENSIONS`). Names that begin with a dot are passed over,
folders too. Links are followed, to files and to folders; each real folder and each real file counts once in a class, at
its own place if it has one there; a folder or file in two classes, or in two parts of the data, is an error that names
both places. Links that lead nowhere, or back to a folder that holds them, are passed over with a warning.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from mixaug._checks import kind_of

__all__ = [
    "EXTENSIONS",
    "FolderWalk",
    "from_pil",
    "read_picture",
    "read_tensor",
]


#: Endings, in any case, of the names of pictures: what PIL reads, but for documents, videos, measurements and drawings.
EXTENSIONS = (
    ".apng", ".avif", ".avifs", ".blp", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".flc", ".fli", ".ftc", ".ftu",
    ".gbr", ".gif", ".icb", ".icns", ".ico", ".iim", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg",
    ".jpf", ".jpg", ".jpx", ".msp", ".pbm", ".pcd", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".pxr",
    ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm",
)  # fmt: skip
_SIXTEEN_BITS = ("PNG", "PPM")  # formats of which mode I is 16 bits, by PIL's version and the file
_BITS_PER_SAMPLE = 258  # the tag of TIFF
_NAMED = 3  # links that a warning names


def read_picture(path: str | os.PathLike[str], mode: str = "RGB") -> PIL.Image.Image:
    """The picture in a file, upright, in 8 bits, by the rules above.

    Args:
        path: the file.
        mode: "RGB" or "L" (grey).

    Raises:
        ValueError: it is no regular file, cannot be decoded, is too large, or of a depth that has no rule. The message
            names the file.

    Note:
        What PIL warns of (odd EXIF) follows the process's warning filters: to silence them here would change them for
        other threads.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "a.png")
        >>> PIL.Image.new("L", (3, 2), 7).save(path)
        >>> read_picture(path).getpixel((0, 0))
        (7, 7, 7)
    """
    return _read(path, mode, None)


def read_tensor(path: str | os.PathLike[str], mode: str = "RGB", side: int | None = None) -> Tensor:
    """`read_picture` as a tensor.

    Args:
        path: the file.
        mode: "RGB" or "L".
        side: of a square result in pixels: the largest centred square, resized (bilinear with antialiasing, whose
            filter reads a little beyond the cut); None keeps the size.

    Returns:
        ``(3, H, W)`` or ``(1, H, W)`` uint8, contiguous.

    Raises:
        ValueError: as for `read_picture`.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "a.png")
        >>> PIL.Image.new("L", (30, 20), 7).save(path)
        >>> tuple(read_tensor(path).shape), tuple(read_tensor(path, "L", side=8).shape)
        ((3, 20, 30), (1, 8, 8))
    """
    return _tensor(_read(path, mode, side))


def from_pil(image: Any, mode: str | None = None, name: str = "image") -> Tensor:
    """A PIL image as a tensor, by the rules for files: an item of a data set.

    Args:
        image: a PIL image.
        mode: "RGB" or "L"; None: grey for pictures without colour (modes 1, L, LA, and 16 or 32 bits), else RGB.
        name: of the image, for messages.

    Returns:
        ``(3, H, W)`` or ``(1, H, W)`` uint8, contiguous; no memory is shared.

    Raises:
        TypeError: no PIL image.
        ValueError: a depth that has no rule; a file, lazily opened, that cannot be decoded.

    Example:
        >>> tuple(from_pil(PIL.Image.new("P", (3, 2))).shape), tuple(from_pil(PIL.Image.new("1", (3, 2))).shape)
        ((3, 2, 3), (1, 2, 3))
    """
    if not isinstance(image, PIL.Image.Image):
        raise TypeError(f"{name} must be a PIL image, got {kind_of(image)}")
    if mode is None:
        mode = "L" if image.mode in ("1", "L", "LA", "La") or image.mode[0] in "IF" else "RGB"
    try:
        return _tensor(_upright(image, mode))
    except Exception as error:  # a file that is opened, but not yet read
        raise ValueError(f"{name}, of mode {image.mode}, cannot be read as a picture: {_reason(error)}") from error


class _Refused(ValueError):
    """What is refused by a rule of ours, not by a decoder."""


def _read(path: str | os.PathLike[str], mode: str, side: int | None) -> PIL.Image.Image:
    try:
        _check_regular(os.stat(path).st_mode)
        with PIL.Image.open(path) as opened:
            most = PIL.Image.MAX_IMAGE_PIXELS  # PIL itself only warns, up to twice as many
            if most is not None and opened.width * opened.height > most:
                raise _Refused(
                    f"{opened.width} x {opened.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS, {most}; "
                    "raise that limit if you trust the file"
                )
            picture = _upright(opened, mode)
        if side is not None and picture.size != (side, side):
            picture = PIL.ImageOps.fit(picture, (side, side), PIL.Image.Resampling.BILINEAR)
        return picture
    # PIL's readers raise OSError, SyntaxError, struct.error and more for damaged files: each must name the file.
    except Exception as error:
        raise ValueError(f"{os.fsdecode(path)} cannot be read as a picture: {_reason(error)}") from error


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
        kind = next((name for test, name in kinds if test(mode)), "device")
        raise _Refused(f"it is a {kind}, not a file")


def _reason(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    return f"{error} ({type(error).__name__})" if str(error) else type(error).__name__


def _upright(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """A copy by the rules: mode "RGB" or "L"."""
    picture = PIL.ImageOps.exif_transpose(image)
    if picture.mode[0] in "IF":
        picture = _upper_bits(picture, image)
    # PIL would warn of a palette with several levels of transparency, which are dropped here anyhow.
    picture.info.pop("transparency", None)
    return picture if picture.mode == mode else picture.convert(mode)


def _upper_bits(picture: PIL.Image.Image, source: PIL.Image.Image) -> PIL.Image.Image:
    """8 of 16 bits; ``source`` still knows of which format it was."""
    if picture.mode == "F":
        raise _Refused("its pixels are floats, of which nothing says what is white; convert it to 8 or 16 bits")
    levels = np.asarray(picture)
    if picture.mode == "I" and source.format not in _SIXTEEN_BITS:
        low, high = (int(levels.min()), int(levels.max())) if levels.size else (0, 0)
        if low < 0 or not (high == 0 or 255 < high <= 65535):
            raise _Refused(
                f"its pixels are 32-bit integers from {low} to {high}, of which nothing says what is white; "
                "convert it to 8 or 16 bits"
            )
    bits = getattr(source, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    if bits[0] == 12:
        raise _Refused("it has 12 bits per channel; convert it to 8 or 16 bits")
    return PIL.Image.fromarray((levels.astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _tensor(picture: PIL.Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


class FolderWalk:
    """A walk of the folders of one data set, by the rules above.

    It remembers which class, or part of the data, has which real folder and file, and which links lead nowhere.

    Args:
        extensions: endings of the names of pictures, in any case.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat/b.png", "cat/a.png", "cat/.hidden.png", "dog/1/c.png", ".trash/d.png"):
        ...     (root / name).parent.mkdir(parents=True, exist_ok=True)
        ...     (root / name).touch()
        >>> (root / "dog" / "latest").symlink_to(root / "dog" / "1")
        >>> walk = FolderWalk()
        >>> for name in walk.subfolders(root):
        ...     print([Path(path).relative_to(root).as_posix() for path in walk.pictures(root / name, owner=name)])
        ['cat/a.png', 'cat/b.png']
        ['dog/1/c.png']
        >>> walk.warn_of_links()  # there are none to warn of
    """

    def __init__(self, extensions: Iterable[str] = EXTENSIONS) -> None:
        self._endings = tuple(ending.lower() for ending in extensions)
        self._folders: dict[str, tuple[Hashable, str]] = {}  # real folder: whose it is, and its name there
        self._linked: dict[str, dict[str, tuple[Hashable, str]]] = {}  # the same of files that links lead to, by folder
        self._dead: list[str] = []
        self._loops: list[str] = []

    def subfolders(self, folder: str | os.PathLike[str]) -> list[str]:
        """Names of the folders in a folder, sorted.

        Raises:
            ValueError: it cannot be read.
        """
        real = os.path.realpath(folder)
        return [
            entry.name
            for entry in _entries(os.fspath(folder))
            if (self._linked_folder(entry, (real,)) if entry.is_symlink() else entry.is_dir())
        ]

    def pictures(self, folder: str | os.PathLike[str], owner: Hashable = None) -> list[str]:
        """Paths of the pictures in a folder and below: a folder's own, sorted, before those of its sub-folders.

        Args:
            folder: where to begin.
            owner: the class or part of the data that the pictures are of. Folders of one owner may share pictures,
                which then count once; for two owners that is an error.

        Raises:
            ValueError: a folder that cannot be read; a folder or file that another owner has.
        """
        found: dict[tuple[str, ...], list[str]] = {}  # names by the folder that they are in
        files: list[tuple[tuple[str, ...], str, str]] = []
        # What lies below without links comes first, so that a folder's own place goes before a link to it.
        start = os.fspath(folder)
        links: list[tuple[tuple[str, ...], str, str, tuple[str, ...]]] = [((), start, os.path.realpath(start), ())]
        while links:
            links.sort(reverse=True)
            branch = [links.pop()]
            while branch:
                parts, path, real, holders = branch.pop()
                if not self._take_folder(path, real, owner):
                    continue
                counted = {os.path.basename(file) for file in self._linked.get(real, ())}
                names = found.setdefault(parts, [])
                for entry in _entries(path):
                    inner = (*parts, entry.name)
                    if entry.is_symlink():
                        if self._linked_folder(entry, (*holders, real)):
                            links.append((inner, entry.path, os.path.realpath(entry.path), (*holders, real)))
                        elif (
                            self._is_picture(entry.name)
                            and os.path.exists(entry.path)
                            and not os.path.isdir(entry.path)
                        ):
                            files.append((parts, entry.name, entry.path))
                    elif entry.is_dir():
                        branch.append((inner, entry.path, os.path.join(real, entry.name), holders))
                    elif self._is_picture(entry.name) and entry.name not in counted:
                        names.append(entry.name)
        for parts, name, path in sorted(files):
            if self._take_linked_file(path, owner):
                found[parts].append(name)
        return [os.path.join(start, *parts, name) for parts in sorted(found) for name in sorted(found[parts])]

    def claim(self, path: str, owner: Hashable) -> None:
        """Notes that a file, found in some other way, is a picture of an owner.

        Raises:
            ValueError: another owner has it.
        """
        self._take_linked_file(path, owner)

    def warn_of_links(self, stacklevel: int = 2) -> None:
        """One warning of all links that were passed over since the last, if there are any."""
        for kind, links in (("lead nowhere", self._dead), ("lead back to a folder that holds them", self._loops)):
            if links:
                distinct = list(dict.fromkeys(links))
                more = f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else ""
                named = ", ".join(distinct[:_NAMED])
                warnings.warn(f"links that {kind} are passed over: {named}{more}", stacklevel=stacklevel + 1)
                links.clear()

    def _is_picture(self, name: str) -> bool:
        return name.lower().endswith(self._endings) and not name.startswith(".")

    def _linked_folder(self, entry: os.DirEntry[str], holders: Sequence[str]) -> bool:
        """Whether a link leads to a folder that is to be walked; notes links that lead nowhere, or back."""
        try:
            if not stat.S_ISDIR(os.stat(entry.path).st_mode):
                return False
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                _refuse(error, entry.path)
            self._dead.append(entry.path)
            return False
        real = os.path.realpath(entry.path)
        if any(_holds(real, holder) for holder in holders):
            self._loops.append(entry.path)
            return False
        return True

    def _take_folder(self, path: str, real: str, owner: Hashable) -> bool:
        """Whether a folder is new; it is the owner's from now on."""
        if real in self._folders:
            self._check_owner("folder", path, owner, self._folders[real])
            return False
        for file, other in self._linked.get(real, {}).items():
            if self._is_picture(os.path.basename(file)):
                self._check_owner("file", os.path.join(path, os.path.basename(file)), owner, other)
        self._folders[real] = owner, path
        return True

    def _take_linked_file(self, path: str, owner: Hashable) -> bool:
        """Whether the file that a path leads to is new; it is the owner's from now on."""
        real = os.path.realpath(path)
        place, name = os.path.split(real)
        if place in self._folders and self._is_picture(name):
            whose, folder = self._folders[place]
            self._check_owner("file", path, owner, (whose, os.path.join(folder, name)))
            return False
        known = self._linked.setdefault(place, {})
        if real in known:
            self._check_owner("file", path, owner, known[real])
            return False
        known[real] = owner, path
        return True

    @staticmethod
    def _check_owner(kind: str, path: str, owner: Hashable, other: tuple[Hashable, str]) -> None:
        if other[0] != owner:
            raise ValueError(
                f"a {kind} must be in one class and one part of the data, but {other[1]} and {path} are the same {kind}"
            )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name, without hidden names."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        _refuse(error, folder)


def _refuse(error: OSError, path: str) -> NoReturn:
    raise ValueError(
        f"{path} must be in a readable folder of pictures, but the system says: {error.strerror}"
    ) from error


def _holds(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def as_float(images: Tensor) -> Tensor:
    """float32 in [0, 1], as models take them.

    Example:
        >>> float(as_float(torch.tensor([255], dtype=torch.uint8)))
        1.0
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images


def as_bytes(images: Tensor) -> Tensor:
    """uint8, as pictures are stored; floats are rounded to the nearest level.

    Example:
        >>> int(as_bytes(torch.tensor([0.5])))
        128
    """
    return images if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255).to(torch.uint8)
