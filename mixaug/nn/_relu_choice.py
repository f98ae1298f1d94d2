"""Which call sites of a model to swap: by name, by position, by a predicate."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from mixaug._checks import check_int
from mixaug.nn._relu_report import ReLUSite

__all__ = ["check_chosen", "choose"]


def check_chosen(names: Any, last: Any, where: Any) -> tuple[tuple[str, ...] | None, int | str | None]:
    """Raises unless the three are of the kinds that :func:`choose` takes; gives the patterns and ``last``.

    Args:
        names: see there.
        last: see there.
        where: see there.
    """
    patterns = (names,) if isinstance(names, str) else names
    if patterns is not None and (
        not isinstance(patterns, Iterable)
        or not (patterns := tuple(patterns))
        or not all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise TypeError(f"names must be a pattern or a sequence of patterns, got {names!r}")
    if isinstance(last, str):
        if last != "block":
            raise TypeError(f'last must be an int or "block", got {last!r}')
    elif last is not None:
        last = check_int("last", last, 1)
    if where is not None and not callable(where):
        raise TypeError(f"where must be a function of a ReLUSite, got {type(where).__name__}")
    return patterns, last


def choose(
    sites: Sequence[ReLUSite],
    others: Sequence[ReLUSite],
    kinds: dict[str, type[nn.Module]],
    patterns: tuple[str, ...] | None,
    last: int | str | None,
    where: Callable[[ReLUSite], bool] | None,
) -> list[ReLUSite]:
    """Those of the sites for which all that is given holds.

    Args:
        sites: that can be swapped.
        others: that are swapped or cannot be; they count for ``last``, and a pattern may match them alone.
        kinds: the classes of the model's modules by name.
        patterns: of names, as a shell's; None: all.
        last: that many call sites in order of execution; "block": those of the last repeated block; None: all.
        where: a predicate; None: all.

    Raises:
        ValueError: a pattern that matches no site; no repeated block.

    Example:
        >>> sites = [ReLUSite(name, "nn.ReLU", (8,), 1, i, False) for i, name in enumerate(("a.relu", "b.relu"))]
        >>> [site.name for site in choose(sites, [], {}, ("b.*",), None, None)]
        ['b.relu']
    """
    everything = sorted((*sites, *others), key=lambda site: site.order)
    for pattern in patterns or ():
        if not any(fnmatchcase(site.name, pattern) for site in everything):
            known = [site.name for site in everything]
            close = difflib.get_close_matches(pattern, known, n=4, cutoff=0.5) or known[:4]
            raise ValueError(f"names must match call sites, got {pattern!r}, which matches none; close: {close}")
    reached = [site for site in everything if site.order >= 0]
    if last == "block":
        at_end = _last_block(reached, kinds)
    else:
        at_end = {site.name for site in (reached[-int(last) :] if last is not None else reached)}
    return [
        site
        for site in sites
        if site.name in at_end
        and (patterns is None or any(fnmatchcase(site.name, pattern) for pattern in patterns))
        and (where is None or where(site))
    ]


def _last_block(sites: Sequence[ReLUSite], kinds: dict[str, type[nn.Module]]) -> set[str]:
    """The names of the sites of the last repeated block.

    A block is a module of a class that occurs again with sites, is no list of modules, and is in no other such block:
    a residual block, an Inception module, a Fire module, a layer of a dense block.
    """
    lists = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    holders = {}
    for site in sites:
        parts = site.name.split(".")
        names = (".".join(parts[:n]) for n in range(1, len(parts)))
        holders[site.name] = [n for n in names if n in kinds and not issubclass(kinds[n], lists)]
    counts = Counter(kinds[name] for name in {name for names in holders.values() for name in names})
    blocks = {site: next((n for n in names if counts[kinds[n]] > 1), None) for site, names in holders.items()}
    found = [block for block in blocks.values() if block is not None]
    if not found:
        raise ValueError('last="block" needs a model with repeated blocks, got one without: use last=k or names=')
    return {site for site, block in blocks.items() if block == found[-1]}
