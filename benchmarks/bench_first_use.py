"""The first call after the install: empty caches, a process of its own for each.

    python benchmarks/bench_first_use.py [--runs 3] [--threads 2]

Timed from the call of `IPMix()` to its result, torch and torchvision imported before: what a user waits for at the
first batch. Nothing is in numba's cache and no mixing set on the disk. The peer is torchvision's AugMix on the same
images, which needs neither pictures nor compiled code.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import torch
from measure import versions

CALL = """
import sys, time
import torch
from torchvision.transforms import v2
torch.set_num_threads(int(sys.argv[4]))
images = torch.rand(int(sys.argv[2]), 3, int(sys.argv[3]), int(sys.argv[3]))
images = (images * 255).to(torch.uint8)
start = time.perf_counter()
if sys.argv[1] == "AugMix":
    v2.AugMix()(images)
else:
    import mixaug
    mixaug.IPMix()(images)
print(time.perf_counter() - start)
"""
#: Form of IPMix to what of the environment makes it.
FORMS = {
    "compiled": {},
    "compiled, AVX2": {"MIXAUG_ISA": "avx2"},
    "without a compiler": {"MIXAUG_NO_EXT": "1"},
    "AugMix": {},
}
#: Side and batch to the goal in seconds of each form.
GOALS = {
    (32, 128): {"compiled": 2.0, "compiled, AVX2": 2.0, "without a compiler": 5.0},
    (224, 16): {"compiled": 8.0, "compiled, AVX2": 8.0},
    (224, 128): {"compiled": 8.0, "compiled, AVX2": 8.0},
}


def seconds(form: str, side: int, batch: int, threads: int) -> float:
    """Of the first call in a process that finds nothing made."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MIXAUG_")}
        environment |= {"MIXAUG_CACHE": folder, "NUMBA_CACHE_DIR": f"{folder}/numba", **FORMS[form]}
        command = [sys.executable, "-c", CALL, form, str(batch), str(side), str(threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def lines(runs: int, threads: int) -> Iterator[str]:
    yield f"{threads} threads, uint8, {versions('numba')}; median of {runs} processes (fastest to slowest)"
    yield ""
    yield "| images | form | first call, s | goal, s | met |"
    yield "|---|---|---|---|---|"
    for (side, batch), goals in GOALS.items():
        taken: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(runs):
            for form, times in taken.items():
                times.append(seconds(form, side, batch, threads))
        for form, times in taken.items():
            middle, goal = statistics.median(times), goals.get(form)
            met = "" if goal is None else "yes" if middle <= goal else "no"
            name = "torchvision AugMix" if form == "AugMix" else f"IPMix, {form}"
            yield (
                f"| {batch}x3x{side}x{side} | {name} | {middle:.2f} ({min(times):.2f} to {max(times):.2f}) | "
                f"{'' if goal is None else f'{goal:g}'} | {met} |"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    for line in lines(options.runs, options.threads):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
