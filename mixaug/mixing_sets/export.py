"""Pictures of a source as PNG files, made by several processes: each whole or absent, and a stopped export goes on."""

from __future__ import annotations

import io
import json
import math
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from mixaug._checks import MAX_THREADS, check_int
from mixaug._files import FULL, atomic_path
from mixaug._pictures import read_tensor
from mixaug.mixing_sets.recipes import SHEET, SyntheticRecipe
from mixaug.mixing_sets.sources import CHUNK, iter_pictures
from mixaug.mixing_sets.threads import with_progress

if TYPE_CHECKING:
    from PIL import Image


#: Only runs of filtered rows are worth searching: pictures of the five sources at 256 px take 2.7 to 5.3 ms and 62 to
#: 149 kB, at PIL's default level 6 to 19 ms and 61 to 147 kB.
STRATEGY = zlib.Z_RLE
_PIECE = 32  # pictures of a step of the progress bar
_HEAD = struct.Struct(">8s I4sII5sI")  # signature; length, name, width, height, kind and checksum of the header
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = bytes((8, 2, 0, 0, 0))  # bits, colour type, compression, filter, not interlaced
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_MARK = "mixaug pixels"  # keyword of the text with the checksum of the pixels
_MARKED = 160  # bytes of a file that hold header and mark


def save_set(
    pictures: torch.Tensor,
    folder: str | os.PathLike[str],
    stem: str = "picture",
    progress: bool | None = None,
    threads: int | None = None,
) -> list[Path]:
    """Writes all pictures into a folder, as PNG.

    Convention: each file is whole or absent. A file of these pixels that is there already is kept, so a stopped save
    goes on where it was; any other file of that name is replaced. Other files are left alone.

    Args:
        pictures: uint8 (N, 3, H, W); a memory map stays one.
        folder: made if it is missing.
        stem: the files are called ``STEM-000000.png`` and so on. Default "picture".
        progress: shows a bar; None: on a terminal. Default None.
        threads: that compress. Default torch's number of threads.

    Returns:
        The paths of all N files, in the order of the pictures.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument of another shape or out of range, or a folder that cannot be written into.
        OSError: the disk is full; what is whole stays there.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> [path.name for path in save_set(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), folder, "black")]
        ['black-000000.png', 'black-000001.png']
    """
    if not isinstance(pictures, torch.Tensor) or pictures.dtype != torch.uint8:
        got = pictures.dtype if isinstance(pictures, torch.Tensor) else type(pictures).__name__
        raise TypeError(f"pictures must be a uint8 tensor, got {got}")
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures must have shape (N, 3, H, W), got {tuple(pictures.shape)}")
    check_stem(stem)
    where = check_folder("folder", folder)
    paths = [where / picture_name(stem, index) for index in range(len(pictures))]

    def missing() -> Iterator[tuple[Path, torch.Tensor]]:
        pieces = with_progress(iter(pictures.split(_PIECE)), len(pictures), f"saving to {where.name}", progress)
        for path, picture in zip(paths, (picture for piece in pieces for picture in piece), strict=True):
            if pixels_of(path) != _checksum(picture):
                yield path, picture

    for _ in write_pictures(missing(), threads):
        pass
    return paths


def write_pictures(items: Iterable[tuple[Path, torch.Tensor]], threads: int | None = None) -> Iterator[Path]:
    """Compresses pictures on threads and writes them in order, while ``items`` makes the next ones.

    Args:
        items: files and their pictures, uint8 (3, H, W).
        threads: that compress. Default torch's number of threads.

    Returns:
        An iterator of the files, each when it is whole.

    Raises:
        OSError: the disk is full or the folder gone; the message names the folder.
    """
    if threads is not None:
        threads = check_int("threads", threads, 1, MAX_THREADS)
    count = torch.get_num_threads() if threads is None else threads
    waiting: deque[tuple[Path, Future[bytes]]] = deque()

    def written() -> Path:
        path, content = waiting.popleft()
        return write_file(path, content.result())

    pool = ThreadPoolExecutor(count)
    try:
        for path, picture in items:
            waiting.append((path, pool.submit(png_bytes, picture)))
            while len(waiting) > 2 * count:
                yield written()
        while waiting:
            yield written()
    finally:
        pool.shutdown(cancel_futures=True)


def write_file(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all; not on several threads at once, as `atomic_path` is not made for that.

    Raises:
        OSError: the disk is full or the folder gone; the message names the file or the folder.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno in FULL:  # named already
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"pictures cannot be written into {path.parent} ({reason})") from error
    return path


def png_bytes(picture: torch.Tensor) -> bytes:
    """One picture, uint8 (3, H, W), as a PNG file with the checksum of its pixels."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text(_MARK, _checksum(picture))
    stream = io.BytesIO()
    # Eight times as fast as permuted rows made contiguous by torch: 0.09 ms at 256 px.
    image = Image.merge("RGB", [Image.fromarray(plane) for plane in picture.contiguous().numpy()])
    image.save(stream, "PNG", compress_type=STRATEGY, pnginfo=mark)
    return stream.getvalue()


def _checksum(picture: torch.Tensor) -> str:
    return f"{zlib.crc32(picture.contiguous().numpy().data):08x}"


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height of a whole RGB picture of 8 bits; None for an absent file, one cut short and any other.

    Only head and end of the file are read, so that a hundred thousand files are looked at in seconds.
    """
    head, end = _ends(path)
    if len(head) < _HEAD.size or end != _END:
        return None
    signature, _, name, width, height, kind, checksum = _HEAD.unpack_from(head)
    if signature != _SIGNATURE or name != b"IHDR" or kind != _RGB8 or checksum != zlib.crc32(head[12:29]):
        return None
    return width, height


def pixels_of(path: Path) -> str | None:
    """The checksum that `png_bytes` has put into a file; None where there is no such file, or only a part of one."""
    head, _ = _ends(path)
    keyword = _MARK.encode() + b"\0"
    place = head.find(b"tEXt" + keyword)
    if size_of(path) is None or place < 0:
        return None
    start = place + 4 + len(keyword)
    return head[start : start + 8].decode("latin-1")


def _ends(path: Path) -> tuple[bytes, bytes]:
    try:
        with open(path, "rb") as file:
            head = file.read(_MARKED)
            file.seek(-len(_END), os.SEEK_END)
            return head, file.read()
    except OSError:
        return b"", b""


def picture_name(stem: str, index: int) -> str:
    """``STEM-000012.png``: the number is as wide for every count, so that a larger set goes on with the same files."""
    return f"{stem}-{index:06d}.png"


def check_stem(stem: str) -> None:
    """Raises unless ``stem`` can begin a file's name.

    Raises:
        TypeError: not a str.
        ValueError: empty, hidden, or with a separator.
    """
    if not isinstance(stem, str):
        raise TypeError(f"stem must be a str, got {type(stem).__name__}: {stem!r}")
    if not stem or stem.startswith(".") or "/" in stem or "\\" in stem or "\0" in stem:
        raise ValueError(f"stem must begin a file's name, without folders and a leading dot, got {stem!r}")


def check_folder(argument: str, folder: str | os.PathLike[str]) -> Path:
    """The folder, made if it is missing, after trying to write into it.

    Raises:
        TypeError: not a path.
        ValueError: it is a file, or cannot be made or written into.

    Example:
        >>> check_folder("--out", "/proc/pictures")
        Traceback (most recent call last):
        ValueError: --out must be a folder that can be written into, got /proc/pictures (No such file or directory)
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"{argument} must be a str or a path, got {type(folder).__name__}: {folder!r}")
    where = Path(folder).expanduser()
    if where.exists() and not where.is_dir():
        raise ValueError(f"{argument} must be a folder, but {where} is a file")
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{argument} must be a folder that can be written into, got {where} ({reason})") from error
    return where


_GRACE = 2.0  # seconds that a worker has to remove the file it is writing
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from mixaug.mixing_sets.export import work; work()"
_KINDS: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError, "ImportError": ImportError}
_MOST = 16  # processes that are started without being asked for: each has 0.35 GB of its own
_ENOUGH = 64  # pictures that are worth the two seconds in which a process starts


def worker_count(asked: int | None, pictures: int, runs: int) -> int:
    """Processes for a number of pictures: as asked, at most one a run; None: a core each, where it is worth it."""
    if asked is not None:
        return max(1, min(asked, runs))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _MOST, pictures // _ENOUGH))


class Workers:
    """Processes for one job; leaving the block ends them.

    Args:
        job: what they make.
        count: how many, at least 1.
    """

    def __init__(self, job: Job, count: int) -> None:
        self.job = job
        self.count = count
        self.processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Workers:
        job = json.dumps({**asdict(self.job.recipe), "folder": str(self.job.folder)})
        command = [sys.executable, "-P", "-c", _PROGRAM, json.dumps([os.path.abspath(path) for path in sys.path]), job]
        try:
            for _ in range(self.count):
                # A session of its own: Ctrl-C in the terminal reaches this process only, which then ends the workers.
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
                )
                self.processes.append(process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:  # each has seen its worker end
            thread.join()
        for process in self.processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what a dead worker has not read
                        pipe.close()

    def made(self, runs: list[tuple[int, int]]) -> Iterator[range]:
        """Has the runs made.

        Args:
            runs: first picture and number of each.

        Returns:
            An iterator of the pictures whose files are whole, run by run as they come.

        Raises:
            ValueError, TypeError, ImportError, OSError: as in a worker.
            ChildProcessError: a worker died.
        """
        first, rows = runs[0]
        # One picture first: its worker compiles the kernels, where they are not on the disk yet, for all others.
        ahead = [(first, 1), *([(first + 1, rows - 1)] if rows > 1 else []), *runs[1:]]
        tasks: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for run in ahead:
            tasks.put(run)
        answers: queue.SimpleQueue[range | Exception] = queue.SimpleQueue()
        compiled = threading.Event()

        def serve(process: subprocess.Popen[str], leads: bool) -> None:
            try:
                while leads or compiled.wait():
                    run = tasks.get_nowait()
                    answers.put(_ask(process, *run))
                    compiled.set()
            except queue.Empty:
                pass
            except Exception as error:
                answers.put(error)
            finally:
                compiled.set()

        for number, process in enumerate(self.processes):
            thread = threading.Thread(target=serve, args=(process, number == 0), daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in ahead:
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer


def _ask(process: subprocess.Popen[str], first: int, rows: int) -> range:
    """Sends a run to a worker and waits for it."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a worker must be started with pipes")
    try:
        process.stdin.write(f"{first} {rows}\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:  # the pipe is closed: the worker has died
        line = ""
    if not line:
        raise ChildProcessError(_how_it_died(process))
    answer: dict[str, Any] = json.loads(line)
    if "error" not in answer:
        return range(first, first + rows)
    if answer["error"] in _KINDS:
        raise _KINDS[answer["error"]](answer["text"])
    raise OSError(answer["errno"], answer["text"])


def _how_it_died(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    if code >= 0:
        return f"worker process {process.pid} ended with exit status {code}"
    memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"worker process {process.pid} was ended by {signal.Signals(-code).name}{memory}"


# --- in the worker -----------------------------------------------------------------------------------------------


def work() -> None:
    """Answers each line of standard input, a run, with a line of standard output; ends with the input."""
    signal.signal(signal.SIGTERM, _stop)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not reach the caller as an answer
    import torch

    torch.set_num_threads(1)
    settings = json.loads(sys.argv[2])
    folder, kinds = Path(settings.pop("folder")), settings.pop("kinds")
    job = Job(SyntheticRecipe(**settings, kinds=None if kinds is None else tuple(kinds)), folder)
    for line in sys.stdin:
        first, rows = (int(word) for word in line.split())
        answer: dict[str, Any] = {}
        try:
            job.make(first, rows, _write_undisturbed)
        except (ValueError, TypeError, ImportError, OSError) as error:
            name = type(error).__name__
            answer = {
                "error": name if name in _KINDS else "OSError",
                "text": getattr(error, "strerror", None) or str(error),
                "errno": getattr(error, "errno", None),
            }
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def _write_undisturbed(path: Path, content: bytes) -> None:
    """Writes a file while SIGTERM waits: the exit that it raises, one time in twenty, left a temporary file behind."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        write_file(path, content)
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        write_file(path, content)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


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
