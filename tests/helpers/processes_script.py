"""What each of the processes of tests/train/test_train_processes.py runs: the given trainings, one after the other.

Arguments: a folder; the runs as JSON, a list of ``{"name", "settings", "resume", "stop", "broken"}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from train_parts import parts, settings

import mixaug.train.loop as loop
from mixaug import MixingSet
from mixaug.train.loop import Run, train

folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
rank = int(os.environ["RANK"])
torch.set_num_threads(1)
pictures = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
MixingSet.default = lambda: MixingSet.from_tensor(pictures)
follow, optimise = loop._follow, Run._optimise
asked = {}


def followed(run, **options):
    """Keeps what each process has at the end."""
    follow(run, **options)
    kept = {"model": run.model.state_dict(), "method": run.take_step.state_dict(), "history": run.history}
    torch.save({**kept, "step": run.step}, folder / f"{asked['name']}-{rank}.pt")


def optimised(self, images, labels):
    """In the second process alone: Ctrl-C before the given step, or a loss that is no number in it."""
    assert len(images) == self.batch_size // 2
    step = self.step + 1
    if rank == 1 and step == asked.get("stop"):
        os.kill(os.getpid(), signal.SIGINT)
    result = optimise(self, images, labels)
    return replace(result, loss=result.loss * torch.nan) if rank == 1 and step == asked.get("broken") else result


loop._follow, Run._optimise = followed, optimised
if len(runs) > 1:  # as in a program that has a group of its own: it is used, and left
    dist.init_process_group("gloo")
for asked in runs:
    chosen = settings(folder / asked.get("folder", asked["name"]), **asked["settings"])
    try:
        train(chosen, parts(), progress=True, resume=asked.get("resume", False))
    except FloatingPointError as error:
        (folder / f"{asked['name']}-{rank}.txt").write_text(str(error))
if len(runs) > 1:
    assert dist.is_initialized()
    dist.destroy_process_group()
