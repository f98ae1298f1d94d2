"""Which generator is drawn from: as an argument of torch, and in loader workers, on several ranks, in checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from mixaug._checks import check_generator, kind_of

__all__ = ["Drawing", "GeneratorState", "RankGenerator", "drawn_by", "generator_states", "load_generator_states"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 63) - 1
#: Name of a generator's state in a ``state_dict``.
_ENTRY = "generator_state"


def drawn_by(generator: torch.Generator | None) -> dict[str, Any]:
    """The keyword for torch's functions that draw from ``generator``; none for None, which stands for the default one.

    A graph of ``torch.compile`` whose sizes are symbols, as after a smaller last batch, refuses ``generator=None``.

    Args:
        generator: of torch, or None.

    Example:
        >>> torch.rand(2, 3, **drawn_by(None)).shape
        torch.Size([2, 3])
    """
    return {} if generator is None else {"generator": generator}


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
        check_generator(generator)
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

    def state(self) -> Tensor | None:
        """State of the generator that is drawn from here, uint8; None for torch's default one."""
        generator = self.current()
        return None if generator is None else generator.get_state()

    def load(self, state: Tensor) -> None:
        """Restores :meth:`state`; nothing without a generator."""
        generator = self.current()
        if generator is not None:
            generator.set_state(state.cpu())

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


class Drawing(nn.Module):
    """A module that draws from ``self._random``, a :class:`GeneratorState`, which its ``state_dict`` keeps.

    The entry ``generator_state``, a uint8 tensor, is there with a generator only. Loading takes a state of either kind:
    one without the entry leaves the generator as it is, one with it is ignored where there is none. Earlier versions
    kept a dict as ``_extra_state``, which is read too.
    """

    _random: GeneratorState

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        state = self._random.state()
        if state is not None:
            destination[prefix + _ENTRY] = state

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        new, old = prefix + _ENTRY, prefix + "_extra_state"
        unexpected_keys[:] = [key for key in unexpected_keys if key not in (new, old)]
        earlier = state_dict.get(old)
        state = state_dict.get(new, earlier.get("generator") if isinstance(earlier, Mapping) else None)
        if state is None:
            return
        try:
            self._random.load(state)
        except (AttributeError, RuntimeError, TypeError) as error:
            error_msgs.append(f"{new} is no state of the generator: {error}")


def generator_states(transforms: Any) -> dict[str, Tensor]:
    """The states of the generators of all transforms in a pipeline, for a checkpoint.

    ``v2.Compose`` and the other containers of torchvision keep their transforms in a plain list, of which their own
    ``state_dict()`` knows nothing: it is empty. This finds them there.

    Args:
        transforms: a transform, a container of torchvision, or a list, tuple or mapping of these.

    Returns:
        uint8 tensors by the place of their transform; nothing of transforms without a generator.

    Raises:
        TypeError: ``transforms`` is none of these.

    Example:
        >>> from torchvision.transforms import v2
        >>> from mixaug import IPMix
        >>> pipeline = v2.Compose([v2.RandomHorizontalFlip(), IPMix(generator=torch.Generator())])
        >>> list(pipeline.state_dict()), list(generator_states(pipeline))
        ([], ['transforms.1.generator_state'])
    """
    found = ((name, module._random.state()) for name, module in _drawing(transforms).items())
    return {name: state for name, state in found if state is not None}


def load_generator_states(transforms: Any, states: Mapping[str, Tensor]) -> None:
    """Restores :func:`generator_states` in a pipeline of the same transforms.

    Args:
        transforms: as there.
        states: what it returned.

    Raises:
        TypeError: ``transforms`` is of another kind.
        ValueError: a state is of a transform that is not there or has no generator, or one is missing; nothing is then
            restored.

    Example:
        >>> from torchvision.transforms import v2
        >>> from mixaug import DynamicMixCut
        >>> one, two = (v2.Compose([DynamicMixCut(10, generator=torch.Generator())]) for _ in range(2))
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> mixed = one(images, labels)
        >>> load_generator_states(two, generator_states(one))
        >>> torch.equal(one(images, labels)[0], two(images, labels)[0])
        True
    """
    there = {name: module._random for name, module in _drawing(transforms).items()}
    there = {name: random for name, random in there.items() if random.generator is not None}
    for name in [*states, *there]:
        if name not in states or name not in there:
            what = "a state without its generator" if name in states else "none of that generator"
            raise ValueError(f"states must be of the generators of these transforms, got {what}: {name}")
    for name, random in there.items():
        random.load(states[name])


def _drawing(value: Any) -> dict[str, Drawing]:
    """The modules that draw, each once, by the names of their entries."""
    found: dict[str, Drawing] = {}
    seen: set[int] = set()

    def look(value: Any, name: str) -> None:
        if id(value) in seen:
            return
        inner: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, nn.Module):
            if isinstance(value, Drawing):
                found[name + _ENTRY] = value
            listed = {key: given for key, given in vars(value).items() if isinstance(given, list | tuple | nn.Module)}
            inner = [*value._modules.items(), *listed.items()]
        elif isinstance(value, Mapping):
            inner = value.items()
        elif isinstance(value, list | tuple):
            inner = enumerate(value)
        else:
            return
        seen.add(id(value))
        for key, child in inner:
            look(child, f"{name}{key}.")

    if not isinstance(value, nn.Module | Mapping | list | tuple):
        raise TypeError(f"transforms must be a transform or a list of transforms, got {kind_of(value)}")
    look(value, "")
    return found
