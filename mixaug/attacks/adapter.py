"""Attacks of ``pyautoattack``, run so that nothing is left behind: random states, traces, gradients, modes."""

from __future__ import annotations

import importlib.util
import logging
import random
import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from mixaug._model_state import float32_default, gradients_off, parameters_frozen
from mixaug.attacks.attack import Attack, Goal, parts
from mixaug.attacks.steps import Health

LOG = logging.getLogger("auto-attack")  # pyautoattack's own; without a logger it would use warnings
NORM_NAMES = {"linf": "Linf", "l2": "L2"}


def require_pyautoattack(who: str) -> None:
    """Raises ModuleNotFoundError with the command that installs it, without importing it."""
    if importlib.util.find_spec("pyautoattack") is None:
        raise ModuleNotFoundError(
            f"{who} runs the attack of the package pyautoattack, which is not installed: pip install 'mixaug[attacks]'",
            name="pyautoattack",
        )


@contextmanager
def _visiting(model: nn.Module, device: torch.device) -> Iterator[None]:
    """For the time of a pyautoattack call: frozen parameters, and global states that are put back after it.

    It seeds torch's generators of all devices at each call, its FAB runs ``backward()``, and its check for dynamic
    defences leaves ``sys.settrace(None)``, which would end a debugger's or coverage's work.
    """
    from pyautoattack import checks

    trace = sys.gettrace()
    python, numpy, torch_cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_used = torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if cuda_used else []
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # a count of calls that is never set back
    try:
        with parameters_frozen(model), gradients_off(device), float32_default():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_cpu)
        if cuda_used:
            torch.cuda.set_rng_state_all(cuda)
        elif torch.cuda.is_available():  # its seeds wait in a queue until CUDA starts; the last one counts
            torch.cuda.manual_seed_all(torch.initial_seed())
        sys.settrace(trace)


def _draw_seed(generator: torch.Generator | None) -> int:
    """A seed from the generator, or from a look at torch's global state if there is none."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(0, 2**31, (), generator=generator, device=device))


class AdaptedAttack(Attack):
    """An attack of pyautoattack: classes only, float32, the global state as it was."""

    batch_size: int | None = None

    @property
    def _least_classes(self) -> int:
        return 2

    def _attack(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        if goal.labels.ndim == 2:
            raise TypeError(f"{self.name} needs labels of shape (B,), class indices, got {tuple(goal.labels.shape)}")
        logits = Logits(model, images, goal, self._least_classes, self.name)
        results = []
        with _visiting(model, images.device):
            for part in parts(len(images), self.batch_size):
                plain = images[part].float().contiguous()
                try:
                    results.append(self._run(logits, plain, goal.labels[part], _draw_seed(self.generator)))
                except Exception:
                    logits.health.report()  # numbers that were not finite are the likelier cause
                    raise
        logits.health.report()
        return torch.empty_like(images).copy_(torch.cat(results))

    @abstractmethod
    def _run(self, logits: Logits, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Calls pyautoattack on a part of the batch."""


class Logits(nn.Module):
    """The model as pyautoattack wants it: contiguous float32 images in, float32 logits of its own out.

    Logits are copied since Square writes into them, which would write into the images of a model that returns a view.
    """

    def __init__(self, model: nn.Module, images: Tensor, goal: Goal, least_classes: int, who: str) -> None:
        super().__init__()
        self._model = model
        self._dtype = images.dtype
        channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._goal = goal
        self._least_classes = least_classes
        self._who = who
        self.health = Health("forward pass")
        self.classes = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits, noted as finite or not."""
        if len(images) == 0 and self.classes:
            return images.new_zeros(0, self.classes)
        output = self._model(images.to(self._dtype).contiguous(memory_format=self._format))
        logits = self._goal.logits(output, len(images))
        self.classes = logits.shape[1]
        if self.classes < self._least_classes:
            raise ValueError(f"{self._who} needs {self._least_classes} classes or more, got logits of {self.classes}")
        self.health.note(logits)
        return logits.float().clone()
