"""Which generator a transform draws from, in the main process, in loader workers and on several ranks."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.utils.data import get_worker_info

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1


class RankGenerator(torch.Generator):
    """A generator that is this rank's own already: a transform draws from it as it is, also where RANK is not 0."""


class GeneratorState:
    """A transform's generator, made different in each loader worker, epoch and rank.

    A given generator reaches every worker (and every rank) as a copy with one and the same state. Its seed is
    therefore combined with the worker's seed, which the loader draws anew each epoch, and with ``RANK``; a persistent
    worker keeps drawing from the generator it made. Without a given generator, torch's default one is used, which the
    loader seeds in each worker.

    Args:
        generator: of torch, or None.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
        self.generator = generator
        self._derived: tuple[tuple[int, int], torch.Generator] | None = None

    def current(self) -> torch.Generator | None:
        """The generator to draw from in this process, or None for torch's default one."""
        if self.generator is None:
            return None
        worker = get_worker_info()
        rank = 0 if isinstance(self.generator, RankGenerator) else int(os.environ.get("RANK", "0"))
        place = (worker.seed if worker is not None else 0, rank)
        if place == (0, 0):
            return self.generator
        if self._derived is None or self._derived[0] != place:
            seed = self.generator.initial_seed()
            for part in place:
                seed = ((seed ^ (seed >> 31)) * _GOLDEN + part) & _MASK
            device = "cpu" if worker is not None else self.generator.device
            self._derived = place, torch.Generator(device).manual_seed(seed)
        return self._derived[1]

    def state(self) -> dict[str, Any]:
        """State for a checkpoint: tensors only, loads with ``weights_only=True``."""
        generator = self.current()
        return {} if generator is None else {"generator": generator.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state`; a state without a generator leaves this one as it is."""
        generator = self.current()
        if generator is not None and "generator" in state:
            generator.set_state(state["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        # Not every supported torch pickles a Generator (spawned workers, deepcopy): seed, state and device do it. The
        # state travels as bytes: a tensor that lives only here would be freed, and its shared memory closed, before a
        # spawned worker opens it.
        g = self.generator
        if g is None:
            return {}
        return {"device": str(g.device), "seed": g.initial_seed(), "state": g.get_state().numpy().tobytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._derived = None
        self.generator = None
        if state:
            self.generator = torch.Generator(state["device"]).manual_seed(state["seed"])
            self.generator.set_state(torch.frombuffer(bytearray(state["state"]), dtype=torch.uint8))
