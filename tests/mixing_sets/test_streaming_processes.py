"""StreamingSet in loader workers and other processes, and what is left when one of them ends."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from paths import HELPERS
from streaming_parts import COUNT, PATIENCE, SIZE, is_gone, numbered, settled, until

from mixaug.mixing_sets.streaming import StreamingSet

# Python 3.12 warns whenever a process with threads forks, which loaders have always done.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def stream() -> Iterator[StreamingSet]:
    """One for many tests: they wait for what it does next, whatever was before."""
    with numbered() as made:
        yield made


def test_copies_share_the_pictures(stream):
    assert settled(stream)
    data = pickle.dumps(stream)
    assert len(data) < 1000
    for other in (pickle.loads(data), copy.deepcopy(stream)):
        assert other._supervisor is None
        made = other.made
        assert made == stream.made  # before anything else opens the file
        assert until(lambda other=other, made=made: other.resized(SIZE) is not None and other.made > made + COUNT)
        assert settled(stream) and torch.equal(other.pictures, stream.pictures)
        other.close()  # not the owner: the stream goes on
    assert settled(stream, beyond=stream.made + COUNT)


class Shows(torch.utils.data.Dataset):
    """The indices of the pictures that a worker sees at two sides, once fresh ones have come, and its producers."""

    def __init__(self, stream: StreamingSet) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        made = self.stream.made
        fresh = until(lambda: self.stream.resized(SIZE) is not None and self.stream.made >= made + 2 * COUNT)
        seen = self.stream.pictures[:, 0, 0, :8].clone() if fresh else torch.zeros(COUNT, 8, dtype=torch.uint8)
        return seen, len(multiprocessing.active_children()) + len(children())


def children() -> list[str]:
    """Processes that this one started (Linux)."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_loader_workers_share_the_pictures(stream, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} does not exist on this system")
    assert settled(stream)
    before = stream.made
    loader = torch.utils.data.DataLoader(
        Shows(stream), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=PATIENCE
    )
    for seen, started in loader:
        assert started == 0  # a worker starts no producer
        assert int(seen.contiguous().numpy().view("<i8").min()) >= before
    assert settled(stream, beyond=stream.made)  # and ends none when it ends


def test_forked_child_leaves_the_stream_alone(stream):
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    assert settled(stream)
    child = os.fork()
    if child == 0:
        try:
            stream.close()
            seen = stream.resized(SIZE).sum() > 0
        finally:
            os._exit(0 if seen else 3)
    assert os.waitpid(child, 0)[1] == 0
    assert stream._folder.is_dir() and settled(stream, beyond=stream.made + COUNT)


ENDS = """
import os, signal, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
sys.path.insert(0, sys.argv[1])
from streaming_parts import Numbered, settled
from mixaug.mixing_sets.streaming import StreamingSet
left = StreamingSet.from_recipe(Numbered(), nice=0)
if sys.argv[2] == "killed":
    assert settled(left)
    print(left._folder, left._supervisor.pid, flush=True)
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # to all processes of a job
        os.kill(left._supervisor.pid, name)
    os.kill(os.getpid(), 9)
dropped = StreamingSet.from_recipe(Numbered(), nice=0)
with StreamingSet.from_recipe(Numbered(), nice=0) as closed:
    pass
_ = left.pictures
places = [(s._folder, s._supervisor.pid) for s in (left, dropped)]
del dropped
child = os.fork()
if child == 0:
    del left
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print(*places[0], *places[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("how", ["exit", "killed"])
def test_producer_ends_with_its_parent(how):
    """After an ordinary end at once and without a word; after a kill as soon as it notices."""
    script = subprocess.run(
        [sys.executable, "-c", ENDS, str(HELPERS), how], capture_output=True, text=True, timeout=PATIENCE
    )
    assert script.stderr == "" and script.returncode == (0 if how == "exit" else -9)
    places = script.stdout.split()
    assert len(places) == (4 if how == "exit" else 2)
    for folder, pid in zip(places[::2], places[1::2], strict=True):
        if how == "killed":
            assert until(lambda pid=pid: is_gone(int(pid))) and until(lambda folder=folder: not Path(folder).exists())
        assert is_gone(int(pid)) and not Path(folder).exists()


def test_dropped_stream_ends_its_producer():
    made = numbered()
    folder, pid = made._folder, made._supervisor.pid
    del made
    gc.collect()
    assert is_gone(pid) and not folder.exists()
