"""Swaps the ReLUs of an existing model for capped ones, each call site by its own."""

from __future__ import annotations

import difflib
import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixaug._checks import check_choice, check_int
from mixaug.nn.activations import DReLU, SReLU, above_zero
from mixaug.nn.replace.calls import take_over
from mixaug.nn.replace.find import Sites, Watch, find_sites, passes
from mixaug.nn.replace.swap import ReLUReport, ReLUSite, Swap
from mixaug.nn.trace import check_plain, look_at

__all__ = [
    "ReLUReport",
    "ReLUSite",
    "check_chosen",
    "choose",
    "replace_relu",
]


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


_GRANULARITIES = ("channel", "layer", "neuron")
Make = Callable[[ReLUSite], nn.Module]


def replace_relu(
    model: nn.Module,
    activation: type[DReLU] | type[SReLU] | Make = DReLU,
    *,
    granularity: str = "channel",
    init: float = 100.0,
    example_input: Tensor | tuple[Tensor, ...] | None = None,
    names: str | Sequence[str] | None = None,
    last: int | str | None = None,
    where: Callable[[ReLUSite], bool] | None = None,
) -> Any:
    r"""Swaps the ReLUs of a model for capped ones in place, each call site for a layer of its own.

    .. math:: \max(0, x) \rightarrow \max(0, \min(m, x))

    Sooksatra and Rivas, "Dynamic-Max-Value ReLU Functions for Adversarially Robust Machine Learning Models",
    Mathematics 12 (2024) 3551.

    Convention:
        A call site is a place where ReLU or ReLU6 is called: ``nn.ReLU`` (each place, though the object is shared, as
        in torchvision's residual blocks), ``F.relu``, ``torch.relu``, ``Tensor.relu``; each run of a line in a loop is
        one. ReLU6 starts at ``min(init, 6)``. With ``init`` above all activations outputs are bit-identical, in
        evaluation and training mode. Weights, other ``state_dict`` keys, hooks, mode and ``isinstance`` stay; new keys
        are such as ``layer1.0.relu.1.max_value``. A model that is wrapped or compiled later works; the sites are found
        on a copy, in an evaluation and a training pass without data. On an error the model is as it was.

    Args:
        model: any model with ReLU; it is changed in place.
        activation: :class:`~mixaug.DReLU` (default), :class:`~mixaug.SReLU`, of which ``init`` is the cap, or a
            function from a :class:`ReLUSite` to a module.
        granularity: one ``m`` a "channel" (default), "layer" or "neuron"; the last ties the layer to the input size.
        init: first ``m``, above 0; default 100, the paper's.
        example_input: a batch that the model takes, or a tuple of its arguments. Shapes and dtypes decide where the
            sites are; the values only whether a warning is due. None (default), or tensors on the meta device: no
            values, and with None the shapes are guessed from the model.
        names: only sites whose names match this pattern or one of these (as in a shell: ``"layer4.*"``).
        last: only the last ``k`` call sites in order of execution, or "block": those of the last repeated block.
        where: only sites for which this predicate holds. Of ``names``, ``last`` and ``where`` all that is given holds.

    Returns:
        the model, with a :class:`ReLUReport` as ``model.relu_report``. If the model itself is a ReLU: the new layer. A
        model of which nothing is left to swap is returned as it is, with ``relu_report.count == 0``.

    Raises:
        TypeError: an argument of the wrong kind; an ``example_input`` of integers.
        ValueError: no ReLU; ``init`` not above 0; an unknown granularity; names that match nothing; a model that is
            wrapped (DDP, DataParallel, FSDP) or compiled; an ``example_input`` that the model does not take.

    Warns:
        UserWarning: activations of ``example_input`` exceed ``init``, in evaluation mode, so that the swap changes the
            outputs; with the sites and their largest values.

    Note:
        Classes whose source calls ReLU several times are replaced by subclasses of the same name with edited source.
        What cannot be changed safely is left, with the reason in the report: TorchScript, calls in functions that are
        no methods, subclasses of ReLU. A block whose weights are shared, and a method that runs several times in a
        pass, have one ``m`` a line for all their runs.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(replace_relu(model).relu_report)
        1 site swapped in this call, 1 in all, 0 left
        swapped  1  nn.ReLU  8
        >>> model[1]
        DReLU(8, init=100, dim=1)
    """
    patterns, last = check_chosen(names, last, where)
    make = _maker(activation, granularity, init)
    check_plain(model, "swap", scripted=True)
    _check_example(example_input)
    if type(model) in (nn.ReLU, nn.ReLU6):
        layer = _itself(model, make, activation, granularity, init, example_input)
        if activation in (DReLU, SReLU):
            _warn_if_capped(layer, list(layer.relu_report.swapped), init, example_input)
        return layer
    done = _done(model)
    lost: set[str] = set()
    while True:
        found = _look(model, example_input, granularity, done, lost)
        sites, others = found.open(), [*found.swapped, *(site for site, _ in found.left)]
        if not sites and not others and not done and not any(isinstance(m, (DReLU, SReLU)) for m in model.modules()):
            raise ValueError(f"model must have a ReLU, got a {type(model).__name__} without one")
        chosen = choose(sites, others, found.kinds, patterns, last, where)
        swap = Swap(model, found.groups)
        try:
            swap.apply({site.name: make(site) for site in chosen})
            unreached = _unreached(model, found.inputs, chosen) if chosen else set()
        except BaseException:
            swap.undo()
            raise
        if not unreached:
            break
        # Something else than the module tree holds the ReLU and calls it: it keeps it.
        swap.undo()
        lost |= unreached
    unchosen = [(site, "not chosen") for site in sites if site not in chosen]
    swapped = sorted([*(s for s in done.values() if s not in found.swapped), *found.swapped, *chosen], key=_order)
    names_now = {site.name: site for site in swapped}
    left = sorted([*found.left, *unchosen], key=lambda pair: pair[0].order)
    if activation in (DReLU, SReLU):
        _warn_if_capped(model, chosen, init, example_input)
    model.relu_report = ReLUReport(tuple(names_now.values()), tuple(left), len(chosen))  # type: ignore[assignment]
    return model


def _done(model: nn.Module) -> dict[str, ReLUSite]:
    """The sites of earlier calls whose layers are still there."""
    report = getattr(model, "relu_report", None)
    if not isinstance(report, ReLUReport):
        return {}
    kinds = {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}
    there = (site for site in report.swapped if kinds.get(site.name, nn.ReLU) not in (nn.ReLU, nn.ReLU6))
    return {site.name: site for site in there}


def _order(site: ReLUSite) -> int:
    return site.order


def _maker(activation: Any, granularity: str, init: float) -> Make:
    init = above_zero("init", init)
    granularity = check_choice("granularity", granularity, _GRANULARITIES)
    if isinstance(activation, nn.Module) or not callable(activation):
        raise TypeError(
            f"activation must be DReLU, SReLU or a function from a ReLUSite to a module, got {activation!r:.80}"
        )

    def first(site: ReLUSite) -> float:
        return min(init, 6.0) if site.six else init

    def drelu(site: ReLUSite) -> DReLU:
        if granularity == "layer":
            return DReLU(1, first(site), inplace=site.inplace)
        if granularity == "neuron":
            return DReLU(site.shape or 1, first(site), inplace=site.inplace)
        return DReLU(site.channels, first(site), dim=site.dim, inplace=site.inplace)

    def other(site: ReLUSite) -> nn.Module:
        layer = activation(site)
        if not isinstance(layer, nn.Module):
            raise TypeError(f"activation must give an nn.Module, got {type(layer).__name__} for {site.name}")
        return layer

    if activation is DReLU:
        return drelu
    if activation is SReLU:
        return lambda site: SReLU(first(site), inplace=site.inplace)
    return other


def _check_example(example_input: Any) -> None:
    given = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    for value in given:
        if isinstance(value, Tensor) and not value.is_floating_point():
            raise TypeError(
                f"example_input must be floating point, got {value.dtype}: what the model takes, not pixels"
            )


def _itself(model: nn.Module, make: Make, activation: Any, granularity: str, init: float, example_input: Any) -> Any:
    """The layer in place of a model that is a ReLU; its size is that of the example, or of the first call."""
    six, inplace = isinstance(model, nn.ReLU6), bool(model.inplace)
    x = example_input[0] if isinstance(example_input, (tuple, list)) else example_input
    if x is None and activation is DReLU and granularity == "neuron":
        raise ValueError('granularity="neuron" of a ReLU alone needs example_input, got None')
    shape = () if x is None else tuple(x.shape[1:])
    dim = 2 if len(shape) == 2 else 1
    site = ReLUSite("", "nn.ReLU6" if six else "nn.ReLU", shape, -1 if dim == 2 else min(dim, len(shape)), 0, inplace)
    if x is None and activation is DReLU and granularity == "channel":
        layer: nn.Module = DReLU(None, min(init, 6.0) if six else init, inplace=inplace)
    else:
        layer = make(site)
    take_over(layer, model)
    layer.relu_report = ReLUReport((site,), (), 1)  # type: ignore[assignment]
    return layer


def _warn_if_capped(model: nn.Module, sites: list[ReLUSite], init: float, example_input: Any) -> None:
    """Warns if the new caps cut activations of the example that the ReLUs let through."""
    given = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    if not sites or any(value is None or value.is_meta or not value.numel() for value in given):
        return
    largest: dict[str, float] = {}

    def look(view: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for site in sites:  # the copy is the plain model again: caps hide what later ones would get
            view.get_submodule(site.name).forward = functools.partial(plain, site)
        with torch.no_grad():
            view(*(value.clone() for value in inputs))

    def plain(site: ReLUSite, x: Tensor) -> Tensor:
        out = F.relu6(x) if site.six else F.relu(x)
        if out.numel():
            largest[site.name] = max(largest.get(site.name, 0.0), float(out.max()))
        return out

    try:
        look_at(model, example_input, look, values=True)
    except ValueError:  # it runs without data only
        return
    over = sorted(((value, name) for name, value in largest.items() if value > init), reverse=True)
    if over:
        shown = ", ".join(f"{value:.4g} at {name or 'the model itself'}" for value, name in over[:3])
        more = f" and {len(over) - 3} more sites" if len(over) > 3 else ""
        warnings.warn(
            f"outputs change: activations of example_input exceed init={init:g}, {shown}{more}; a larger init keeps "
            "them, mixaug.nn.set_caps starts the caps at a quantile",
            UserWarning,
            stacklevel=3,
        )


def _look(model: nn.Module, example_input: Any, granularity: str, done: dict[str, ReLUSite], lost: set[str]) -> Sites:
    try:
        found = look_at(model, example_input, lambda v, inputs: find_sites(v, inputs, granularity, done, strict=True))
    except ValueError:  # maybe the training pass asks for targets
        found = look_at(model, example_input, lambda v, inputs: find_sites(v, inputs, granularity, done, strict=False))
    for group in found.groups:
        for _, site in group.sites:
            if site.name in lost:
                found.left.append((site, "something else than a module holds and calls it"))
    return found


def _unreached(model: nn.Module, inputs: tuple[Tensor, ...], chosen: list[ReLUSite]) -> set[str]:
    """The sites whose new layers the same passes do not run."""

    def look(view: nn.Module, values: tuple[Tensor, ...]) -> set[str]:
        layers = {site.name: view.get_submodule(site.name) for site in chosen}
        watches = passes(view, values, lambda: Watch(layers), strict=False)
        return set(layers) - {name for watch in watches for name in watch.reached}

    return look_at(model, inputs, look)
