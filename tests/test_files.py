"""Files whole or absent, temporaries of killed writers, locks that die with their holder, and full disks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from mixaug._files import atomic_path, only_ours, remove_stale, sole_use
from mixaug._terminal import QuietStream, printable
from mixaug.evaluate.tables import cut, text_table, wrapped

HOLDS = """
import os, signal, sys
from mixaug._files import atomic_path, sole_use
with sole_use(sys.argv[1] + "/.lock", "busy"), atomic_path(sys.argv[1] + "/last.pt") as temporary:
    temporary.write_text("half")
    reads, writes = os.pipe()
    if not os.fork():  # its lock is given up before the first line here
        os.write(writes, b"x")
        signal.pause()
    os.read(reads, 1)
    print("ready", flush=True)
    signal.pause()
"""


def test_a_live_writer_keeps_its_file_and_lock_and_a_killed_one_neither_although_its_child_lives(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            assert remove_stale(tmp_path) == []
            with pytest.raises(BlockingIOError, match="busy"), sole_use(tmp_path / ".lock", "busy"):
                pass
            process.kill()
            process.wait()
            with sole_use(tmp_path / ".lock", "busy"):
                assert [path.name[:9] for path in remove_stale(tmp_path, "*.pt")] == [".last.pt."]
            assert list(tmp_path.iterdir()) == []
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_own_temporary_is_no_stale_one_and_other_files_stay(tmp_path):
    (tmp_path / ".mine.tmp").write_text("mine")
    (tmp_path / ".best.pt.abcd1234.tmp").write_text("half")
    with atomic_path(tmp_path / "last.pt") as temporary:
        assert [path.name for path in remove_stale(tmp_path)] == [".best.pt.abcd1234.tmp"]
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "last.pt"]


def test_what_a_killed_writer_left_goes_when_the_file_is_written_again(tmp_path):
    left, others = tmp_path / ".a.png.abcd1234.tmp", tmp_path / ".b.png.abcd1234.tmp"
    for path in (left, others):
        path.write_text("half")
    with atomic_path(tmp_path / "a.png") as temporary:
        assert not left.exists() and others.exists()  # a name that this program does not write is not its business
        with atomic_path(tmp_path / "a.png") as second:  # whose writer lives
            assert temporary.exists()
            second.write_text("second")
        temporary.write_text("whole")
    assert (tmp_path / "a.png").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.png.abcd1234.tmp", "a.png"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_and_keeps_the_file(tmp_path, number):
    target = tmp_path / "last.pt"
    target.write_text("before")
    message = rf"last\.pt cannot be written: .* free on the disk of {tmp_path}\); the file that was there is kept"
    with pytest.raises(OSError, match=message), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError(number, "full")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"] and target.read_text() == "before"


def test_a_folder_made_for_a_lock_goes_with_it_unless_something_is_in_it(tmp_path):
    with sole_use(tmp_path / "a" / "b" / ".lock", "busy"):
        pass
    assert list(tmp_path.iterdir()) == []
    with sole_use(tmp_path / "a" / "b" / ".lock", "busy"):
        (tmp_path / "a" / "x").write_text("kept")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def test_a_full_or_closed_stream_falls_silent():
    full = open("/dev/full", "w")  # noqa: SIM115
    stream = QuietStream(full)
    stream.write("lost")
    stream.flush()
    assert stream.write("lost") == 4
    with suppress(OSError):
        full.close()
    assert QuietStream(None).write("abc") == 3 and not QuietStream(None).isatty()


def test_names_change_no_terminal():
    assert printable("a\x1b[31m\r\nb\u202e\x9b\udc80\u2028") == "a\\x1b[31m\\r\\nb\\u202e\\x9b\\udc80\\u2028"
    for fine in ("café", "نمی\u200cخواهم", "日本 🙂", "a b"):
        assert printable(fine) == fine


def test_a_folder_that_others_can_write_to_is_not_ours(tmp_path):
    inner = tmp_path / "outer" / "cache"
    inner.mkdir(parents=True)
    assert only_ours(inner) and not only_ours(tmp_path / "none")
    for mode in (0o777, 0o775, 0o1777):  # sticky keeps the files of others, and takes new ones of theirs
        inner.chmod(mode)
        assert not only_ours(inner)
    inner.chmod(0o755)
    inner.parent.chmod(0o777)  # somebody could put another folder in its place
    assert not only_ours(inner)
    inner.parent.chmod(0o1777)
    assert only_ours(inner)
    (inner / "kernel.nbi").write_bytes(b"")
    (inner / "kernel.nbi").chmod(0o666)
    assert not only_ours(inner)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_the_numba_cache_is_used_only_where_nobody_else_can_write(tmp_path, mode):
    shared, home = tmp_path / "shared", tmp_path / "home"
    shared.mkdir()
    home.mkdir()
    program = (
        "import os, sys\n"
        "from mixaug._numba import jit\n"
        "import mixaug.mixing_sets.ifs.kernels as kernels\n"
        "made = [f for f in vars(kernels).values() if hasattr(f, 'stats')]\n"
        "print({f.stats.cache_path for f in made})\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(shared), "XDG_CACHE_HOME": str(home)}
    # numba makes a folder of its own in it: others can write there if the umask lets them.
    code = f"import os; os.umask({0o777 - mode})\n" + program
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ((home / "mixaug" / "numba").is_dir(), str(home) in ran.stdout) == (mode == 0o777, mode == 0o777)
    assert (str(shared) in ran.stdout) == (mode == 0o700)


def test_tables_and_titles_write_control_characters_out():
    assert "\x1b" not in text_table(["name"], [["a\x1b[2J"]])
    assert cut("\x1b[2J" + "x" * 50).isprintable()
    assert wrapped("class \x1b[31m\nred") == "class \\x1b[31m red"
