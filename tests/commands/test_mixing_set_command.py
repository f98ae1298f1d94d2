"""``mixaug mixing-set``: files that are whole, made once, by one process or several, and kept when it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from mixaug._pictures import read_tensor
from mixaug.cli import main
from mixaug.commands.mixing_set import SOURCES
from mixaug.mixing_sets import MixingSet, make_pictures
from mixaug.mixing_sets import export as _making
from mixaug.mixing_sets import export as _workers
from mixaug.mixing_sets import sources as _sources
from mixaug.mixing_sets.export import Job, Workers, worker_count
from mixaug.mixing_sets.recipes import SyntheticRecipe

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
needs_jit = pytest.mark.skipif(not JIT, reason="64 px previews need compiled code")
SIZE = 16
PROGRAM = "import sys; from mixaug.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXAUG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def makes(monkeypatch):
    """A fast stand-in for the sources that notes which pictures are made in this process."""
    made: list[int] = []

    def pieces(source, count, size=256, seed=0, *, start=0, kinds=None, chunk=16, threads=None):
        for index in range(start, start + count):
            made.append(index)
            generator = torch.Generator().manual_seed(1000 * seed + index)
            yield torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=generator)

    monkeypatch.setattr(_making, "iter_pictures", pieces)
    return made


def words(count=3, *more: str, source="fractals", size=SIZE, workers=1) -> list[str]:
    given = ["--count", str(count), "--size", str(size), "--workers", str(workers), "--out", "pics", *more]
    return ["mixing-set", source, *given]


def pictures_in(folder="pics") -> list[Path]:
    return sorted(path for path in Path(folder).iterdir() if not path.name.startswith("contact-sheet-"))


def read_all(folder="pics", size=SIZE) -> torch.Tensor:
    return torch.stack([read_tensor(path, side=size) for path in pictures_in(folder)])


def nodes(folder="pics") -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in pictures_in(folder)}


@contextmanager
def running(program: str, *words: str, **how):
    """A process of its own, which does not outlive the test."""
    process = subprocess.Popen([sys.executable, "-c", program, *words], **how)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition, seconds=400.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# --- what it makes --------------------------------------------------------------------------------------------------


def test_the_help_names_every_source_and_needs_no_torch():
    assert SOURCES == _sources.SOURCES
    code = "import sys\nfrom mixaug.cli import main\ntry: main(['mixing-set', '--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.endswith("False\n") and all(name in result.stdout for name in SOURCES), result.stderr


@needs_jit
@pytest.mark.parametrize("source", SOURCES)
def test_every_source(source, capsys, tmp_path):
    assert main(words(3, "--seed", "5", source=source)) == 0
    assert torch.equal(read_all(), make_pictures(source, 3, SIZE, seed=5))
    out, err = capsys.readouterr()
    assert f"of {SIZE} px, seed 5, in pics (3 made, " in out and " a second)" in out and err == ""
    version = _sources.source_of(source).version
    assert [path.name for path in pictures_in()] == [f"{source}{version}-s{SIZE}-seed5-{i:06d}.png" for i in range(3)]
    assert not (tmp_path / "cache").exists()  # the disk holds the pictures once


@needs_jit
def test_kinds():
    assert main(words(2, "--kinds", "newton, julia" if "newton" in kinds_of("fractals") else "pole, julia")) == 0
    chosen = ("julia", "newton") if "newton" in kinds_of("fractals") else ("julia", "pole")
    assert torch.equal(read_all(), make_pictures("fractals", 2, SIZE, kinds=chosen))
    assert all("-" + "+".join(k for k in kinds_of("fractals") if k in chosen) + "-" in p.name for p in pictures_in())


def kinds_of(source: str) -> tuple[str, ...]:
    return _sources.source_of(source).kinds


def test_all_kinds_by_name_are_the_pictures_without_the_option(makes):
    assert main(words(2)) == 0
    assert main(words(2, "--kinds", ",".join(kinds_of("fractals")))) == 0
    assert makes == [0, 1] and len(pictures_in()) == 2


def test_different_pictures_have_different_names(makes):
    for more in ((), ("--seed", "1"), ("--kinds", "julia"), ("--size", "17")):
        assert main(words(2, *more)) == 0
    assert main(words(2, source="contours")) == 0
    assert len(pictures_in()) == 10 and len(list(Path("pics").iterdir())) == 15


@needs_jit
def test_processes_write_the_same_files(capsys):
    assert main(words(40, source="contours", workers=2)) == 0
    assert "40 radial contours of 16 px, seed 0, in pics (40 made, " in capsys.readouterr().out
    two = [path.read_bytes() for path in pictures_in()]
    Path("pics").rename("two")
    assert main(words(40, source="contours")) == 0
    assert two == [path.read_bytes() for path in pictures_in()]


def test_progress_in_processes_and_on_threads(makes, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(words(3)) == 0
    assert "3/3" in capsys.readouterr().err
    assert main(words(5, "--quiet")) == 0
    assert capsys.readouterr().err == ""


# --- the contact sheet ----------------------------------------------------------------------------------------------


def test_contact_sheet_shows_64_and_is_not_a_picture(makes, capsys):
    assert main(words(70)) == 0
    (sheet,) = set(Path("pics").iterdir()) - set(pictures_in())
    assert sheet.name == f"contact-sheet-{pictures_in()[0].name[: -len('-000000.png')]}.png"
    assert f"Contact sheet: {sheet}" in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert image.size == (8 * 128, 8 * 128)
        for place in (0, 13, 63):
            left, top = place % 8 * 128, place // 8 * 128
            tile = image.crop((left, top, left + 128, top + 128)).resize((SIZE, SIZE), Image.Resampling.BOX)
            wanted = read_tensor(pictures_in()[place], side=SIZE).permute(1, 2, 0).double()
            shown = torch.frombuffer(bytearray(tile.tobytes()), dtype=torch.uint8).reshape(SIZE, SIZE, 3).double()
            assert torch.corrcoef(torch.stack([wanted.flatten(), shown.flatten()]))[0, 1] > 0.8
    assert len(MixingSet.from_folder("pics", size=SIZE)) == 70


def test_contact_sheet_of_few_pictures_and_made_again(makes):
    assert main(words(5)) == 0
    (sheet,) = set(Path("pics").iterdir()) - set(pictures_in())
    with Image.open(sheet) as image:
        assert image.size == (3 * 128, 2 * 128)
    sheet.unlink()
    assert main(words(5)) == 0
    assert sheet.exists() and len(makes) == 5


# --- going on where it was ------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_made(makes, capsys):
    assert main(words(8)) == 0
    files = pictures_in()
    wanted = read_all()
    files[1].unlink()
    files[3].write_bytes(files[3].read_bytes()[:-5])
    files[4].write_bytes(b"")
    Image.new("RGB", (SIZE, SIZE + 1)).save(files[6])
    before = nodes()
    makes.clear()
    capsys.readouterr()
    assert main(words(8)) == 0
    assert makes == [1, 3, 4, 6] and torch.equal(read_all(), wanted)
    after = nodes()
    assert {name for name in after if after[name] != before.get(name)} == {files[i].name for i in (1, 3, 4, 6)}
    assert "(4 made, " in capsys.readouterr().out
    makes.clear()
    assert main(words(8)) == 0
    assert makes == [] and "(all were there)" in capsys.readouterr().out


def test_a_larger_count_adds_and_a_smaller_one_removes_nothing(makes, capsys):
    assert main(words(3)) == 0
    assert main(words(12)) == 0
    assert makes == list(range(12)) and "(9 made, " in capsys.readouterr().out
    assert main(words(2)) == 0
    assert len(pictures_in()) == 12


def test_ctrl_c_keeps_what_is_finished(makes, capsys, monkeypatch):
    original, calls = _making.write_pictures, [0]

    def interrupted(items):
        for path in original(items):
            calls[0] += 1
            yield path
            if calls[0] == 5:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)  # the signal ends it

    monkeypatch.setattr(_making, "write_pictures", interrupted)
    assert main(words(20)) == 130
    err = capsys.readouterr().err
    assert "mixaug mixing-set: interrupted; 5 of 20 pictures are in pics, the same command goes on where it was" in err
    assert "Traceback" not in err and len(list(Path("pics").iterdir())) == 5
    kept = nodes()
    monkeypatch.setattr(_making, "write_pictures", original)
    assert main(words(20)) == 0
    assert len(pictures_in()) == 20 and all(nodes()[name] == kept[name] for name in kept)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_jit
def test_ctrl_c_ends_all_processes_and_the_next_run_goes_on(tmp_path, monkeypatch):
    """SIGINT to the whole group, as a terminal sends it."""
    monkeypatch.setenv("PYTHONWARNINGS", "error::ResourceWarning")
    note = "import mixaug.mixing_sets.export as w; p = w.subprocess.Popen; "
    note += "from pathlib import Path; P = Path('pids'); P.write_text('')\n"
    note += "w.subprocess.Popen = lambda *a, **k: (x := p(*a, **k), P.write_text(P.read_text() + f'{x.pid} '))[0]\n"
    given = words(30_000, source="contours", workers=2)
    with running(note + PROGRAM, *given, stderr=subprocess.PIPE, text=True, start_new_session=True) as program:
        wait_for(lambda: Path("pics").is_dir() and len(pictures_in()) > 20)
        started = [int(pid) for pid in Path("pids").read_text().split()]
        assert len(started) == 2 and all(alive(pid) for pid in started)
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=400)
    # A Ctrl-C between Python's open() and the `with` around it leaves the file to the garbage collector.
    err = re.sub(r"Exception ignored in: <_io.*?ResourceWarning: unclosed file[^\n]*\n", "", err, flags=re.DOTALL)
    assert program.returncode == 130 and "Traceback" not in err
    assert not any(alive(pid) for pid in started)
    kept = nodes()
    assert f"interrupted; {len(kept)} of 30000 pictures are in pics, the same command goes on" in err
    assert 20 < len(kept) < 30_000 and not [name for name in kept if name.endswith(".tmp")]
    count = 1 + max(int(name[-10:-4]) for name in kept)
    assert main(words(count, source="contours")) == 0
    after = nodes()
    assert len(after) == count and all(after[name] == kept[name] for name in kept)
    assert torch.equal(read_all()[:20], make_pictures("contours", 20, SIZE))


@needs_jit
def test_two_runs_at_once():
    given = words(150, source="contours")
    with running(PROGRAM, *given) as other:
        wait_for(lambda: Path("pics").is_dir() and len(pictures_in()) > 3)
        assert len(pictures_in()) < 140
        assert main(given) == 0  # the rest, as the other does
        assert other.wait(400) == 0
    assert len(list(Path("pics").iterdir())) == 151  # and no temporary file
    assert torch.equal(read_all(), make_pictures("contours", 150, SIZE))


# --- workers --------------------------------------------------------------------------------------------------------


def job(count=40, size=SIZE) -> Job:
    Path("pics").mkdir(exist_ok=True)
    return Job(SyntheticRecipe("contours", count, size, 0), Path("pics"))


@needs_jit
def test_a_killed_worker_is_named():
    made = []
    with Workers(job(200), 1) as workers:
        wanted = (
            f"worker process {workers.processes[0].pid} was ended by SIGKILL, as the system does when memory runs out"
        )
        with pytest.raises(ChildProcessError, match=wanted):
            for piece in workers.made(job(200).missing()):
                made += piece
                workers.processes[0].kill()
    names = {path.name for path in pictures_in()}
    assert 0 < len(made) < 200 and names >= {f"{job().stem}-{index:06d}.png" for index in made}


def test_a_worker_that_cannot_start_is_named(capsys, monkeypatch):
    monkeypatch.setattr(_workers, "_PROGRAM", "import sys; sys.exit(3)")
    assert main(words(40, workers=2)) == 2
    assert "ended with exit status 3; what was made is kept" in capsys.readouterr().err
    assert pictures_in() == []


@contextmanager
def small_files():
    """The system refuses to write more than 500 bytes to a file, as a full disk would; in child processes, too."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(makes, capsys):
    with small_files():
        assert main(words(20, size=32)) == 2
    err = capsys.readouterr().err
    assert "mixaug mixing-set: pics/" in err and re.search(
        r"pics/\S+\.png cannot be written: File too large \(.* free on the disk of pics\)\n", err
    )
    assert "Traceback" not in err and list(Path("pics").iterdir()) == []


@needs_jit
def test_errors_of_a_worker_are_raised_here():
    with small_files(), Workers(job(size=32), 1) as workers:
        with pytest.raises(
            OSError, match=r"pics/\S+\.png cannot be written: File too large \(.* free on the disk of pics\)$"
        ) as caught:
            list(workers.made([(0, 3)]))
        assert caught.value.errno is not None
        # Its job is of another version, say: the worker is asked for picture -1.
        with pytest.raises(ValueError, match="start must be from 0 to 9223372036854775807, got -1"):
            list(workers.made([(-1, 1)]))
    assert list(Path("pics").iterdir()) == []


def test_a_worker_ends_with_its_caller_and_imports_nothing_from_the_working_folder():
    for name in ("json", "torch", "subprocess"):
        Path(f"{name}.py").write_text("raise SystemExit(9)")
    with Workers(job(), 1) as workers:
        workers.processes[0].stdin.close()  # as when the caller is killed
        assert workers.processes[0].wait(400) == 0


def test_number_of_workers(monkeypatch):
    monkeypatch.setattr(_workers.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert worker_count(None, pictures=10_000, runs=625) == 8
    assert worker_count(None, pictures=200, runs=13) == 3  # each has work for longer than its start
    assert worker_count(None, pictures=20, runs=2) == 1
    assert worker_count(4, pictures=20, runs=2) == 2
    assert worker_count(100, pictures=10_000, runs=625) == 100
    assert worker_count(1, pictures=10_000, runs=625) == 1
    monkeypatch.setattr(_workers.os, "sched_getaffinity", lambda pid: set(range(256)), raising=False)
    assert worker_count(None, pictures=10**6, runs=62_500) == 16


def test_pictures_are_made_a_few_at_a_time():
    assert job(40).missing() == [(0, 16), (16, 16), (32, 8)]
    assert job(3, size=1024).missing() == [(0, 3)]
    assert job(12, size=1024).missing() == [(0, 10), (10, 2)]
    assert job(3, size=5000).missing() == [(0, 1), (1, 1), (2, 1)]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fractal"], "source must be one of fractals, ifs, contours, dead-leaves, spectrum, got 'fractal'"),
        (["fractals", "--count", "0"], "--count must be from 1 to 10000000, got 0"),
        (["fractals", "--count", "-3"], "--count must be from 1 to 10000000, got -3"),
        (["fractals", "--size", "1"], "--size must be from 8 to 16384, got 1"),
        (["fractals", "--seed", "-1"], "--seed must be from 0 to 9223372036854775807, got -1"),
        (["fractals", "--seed", str(2**63)], f"--seed must be from 0 to 9223372036854775807, got {2**63}"),
        (["fractals", "--workers", "0"], "--workers must be from 1 to 1024, got 0"),
        (["fractals", "--kinds", "julia,moon"], "kinds must name some of julia, "),
        (["fractals", "--kinds", "julia,julia"], "each once, got ('julia', 'julia')"),
        (["fractals", "--kinds", ","], "kinds must name some of julia, "),
        (["fractals", "--out", "/proc/deep"], "--out must be a folder that can be written into, got /proc/deep ("),
        (["fractals", "--out", "a-file"], "--out must be a folder, but a-file is a file"),
    ],
)
def test_bad_input_is_refused_before_any_work(given, message, capsys, makes):
    Path("a-file").write_text("mine")
    more = [] if "--out" in given else ["--out", "pics"]
    assert main(["mixing-set", *given, *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mixaug mixing-set: ") and message in err and err.count("\n") == 1
    assert makes == [] and sorted(path.name for path in Path().iterdir()) == ["a-file"]


@pytest.mark.parametrize("given", [["fractals"], ["--out", "pics"], ["fractals", "--out", "x", "--count", "many"]])
def test_words_that_cannot_be_read(given):
    with pytest.raises(SystemExit) as stop:
        main(["mixing-set", *given])
    assert stop.value.code == 2
