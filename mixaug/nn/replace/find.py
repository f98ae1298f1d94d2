"""The passes of a model in which a swap finds and checks its call sites."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixaug.nn.activations import DReLU, SReLU
from mixaug.nn.replace.calls import Call, Line, Recorder, ReLUSites
from mixaug.nn.replace.swap import Edit, Group, ReLUSite, edits_of, original_class, place, why_not

__all__ = [
    "Sites",
    "Watch",
    "find_sites",
    "passes",
]


def passes(view: nn.Module, inputs: tuple[Tensor, ...], run: Callable[[], Any], strict: bool) -> list[Any]:
    """What ``run()`` gives in an evaluation and in a training pass of a model.

    The two have batches of 2 and 3, so that what depends on the batch shows; of the given one where no other works.

    Args:
        view: a copy that may be changed.
        inputs: for it.
        run: a context manager around each pass.
        strict: whether an error in the training pass counts; a model may ask for targets there.
    """
    error: Exception | None = None
    for sizes in ((2, 3), (None, None)):
        results = []
        try:
            for training, size in zip((False, True), sizes, strict=True):
                for module in view.modules():
                    module.training = training
                values = inputs if size is None else tuple(_batch(value, size) for value in inputs)
                try:
                    with run() as result:
                        view(*(value.clone() for value in values))
                except Exception:
                    if training and not strict:
                        continue
                    raise
                results.append(result)
            return results
        except Exception as now:
            error = error or now
    raise cast(Exception, error)  # both rounds had one


def _batch(value: Tensor, size: int) -> Tensor:
    if not value.ndim or not len(value):
        return value
    return torch.cat([value] * size)[:size]


class Watch:
    """Notes which layers run.

    Args:
        layers: by name.

    Example:
        >>> layer = nn.ReLU()
        >>> with Watch({"relu": layer}) as watch:
        ...     out = layer(torch.zeros(2))
        >>> watch.reached
        {'relu'}
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self.reached: set[str] = set()
        self._layers = layers

    def __enter__(self) -> Watch:
        self._handles = [
            layer.register_forward_pre_hook(lambda *_, name=name: self.reached.add(name))
            for name, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()


_FUNCTIONAL = "relu_calls"


@dataclass
class Sites:
    """All sites of a model.

    Args:
        groups: those that can be swapped.
        swapped: those that are.
        left: those that cannot be, with the reason.
        kinds: the class of each module by its name.
        inputs: of the recording pass.
    """

    groups: list[Group] = field(default_factory=list)
    swapped: list[ReLUSite] = field(default_factory=list)
    left: list[tuple[ReLUSite, str]] = field(default_factory=list)
    kinds: dict[str, type[nn.Module]] = field(default_factory=dict)
    inputs: tuple[Tensor, ...] = ()

    def open(self) -> list[ReLUSite]:
        """The sites that can be swapped, in order of execution."""
        left = {site.name for site, _ in self.left}
        sites = (site for group in self.groups for _, site in group.sites if site.name not in left)
        return sorted(sites, key=lambda site: site.order)


def find_sites(
    view: nn.Module, inputs: tuple[Tensor, ...], granularity: str, done: dict[str, ReLUSite], strict: bool
) -> Sites:
    """Runs a copy of a model and gives its sites.

    Args:
        view: the copy, which is changed.
        inputs: for it.
        granularity: "channel", "layer" or "neuron": of what size all inputs of one site must agree in.
        done: the sites that an earlier swap has put layers in, by name.
        strict: see :func:`passes`.
    """
    finder = _Finder(view, granularity, done)
    recorders = passes(view, inputs, finder.recorder, strict)
    found = finder.find([recorder.calls for recorder in recorders])
    found.inputs = inputs
    return found


class _Finder:
    """The sites of one view; its classes are the original ones, for whose source the edits are."""

    def __init__(self, view: nn.Module, granularity: str, done: dict[str, ReLUSite]) -> None:
        self.granularity = granularity
        self.names = {id(module): name for name, module in view.named_modules()}
        self.kinds = {name: original_class(module) for name, module in view.named_modules()}
        self.edits = {id(module): edits_of(module) for module in view.modules()}
        self.home: dict[int, tuple[nn.Module, str]] = {}  # of every ReLU: its owner and attribute
        self.swapped: dict[int, str] = {}
        self.unreached: dict[int, nn.Module] = {}
        self.scripts: list[str] = []
        self.done = done
        for owner in list(view.modules()):
            if isinstance(owner, torch.jit.ScriptModule):
                name = self.names[id(owner)]
                if not any(name.startswith(f"{outer}.") for outer in self.scripts) and _scripted_relu(owner):
                    self.scripts.append(name)
                continue
            owner.__class__ = original_class(owner)
            for attribute, child in list(owner._modules.items()):
                if child is None:
                    continue
                if type(child) in (nn.ReLU, nn.ReLU6):
                    if id(child) in self.home:  # registered twice: each place is a site
                        child = copy.copy(child)
                        owner._modules[attribute] = child
                    self.unreached[id(child)] = child
                self.home.setdefault(id(child), (owner, attribute))
                if self._join(owner, attribute) in done:
                    self.swapped.setdefault(id(child), self._join(owner, attribute))
        self.view = view

    def _join(self, owner: nn.Module | None, attribute: str) -> str:
        return ".".join(filter(None, (self.names.get(id(owner), ""), attribute)))

    def recorder(self) -> Recorder:
        """A recorder that notes the layers of earlier swaps too."""
        return _Recorder(self)

    def find(self, runs: list[list[Call]]) -> Sites:
        """The sites of what was recorded."""
        # The training pass, the last one, has the auxiliary heads at their places.
        order = [call for run in reversed(runs) for call in run if not self._in_capped(call)]
        by_module: dict[int, list[Call]] = {}
        by_owner: dict[int, list[Call]] = {}
        by_place: dict[Any, list[Call]] = {}  # of those without a line
        self.sites = Sites(kinds=self.kinds)
        self.order: dict[int, int] = {id(call): i for i, call in enumerate(order)}
        for call in order:
            if call.module is not None:
                by_module.setdefault(id(call.module), []).append(call)
                self.unreached.pop(id(call.module), None)
            elif isinstance(call.line, Line):
                by_owner.setdefault(id(call.line.owner), []).append(call)
            else:
                by_place.setdefault((id(call.caller), call.position), []).append(call)
        for calls in by_place.values():
            self._leave(calls, "", str(calls[0].line))
        for calls in by_module.values():
            self._module(calls)
        for calls in by_owner.values():
            self._functional(calls)
        for child in self.unreached.values():
            self._never(child)
        for script in self.scripts:
            self.sites.left.append((ReLUSite(script, "TorchScript", (), 1, -1, False), "it is TorchScript"))
        self._number()
        return self.sites

    def _in_capped(self, call: Call) -> bool:
        """Whether it is a capped layer's own operation."""
        return isinstance(call.caller, (DReLU, SReLU)) or (call.caller is not None and self._in_done(call.caller))

    # One nn.ReLU, the container of one, or a layer of an earlier swap.

    def _module(self, calls: list[Call]) -> None:
        module = cast(nn.Module, calls[0].module)  # these calls are of modules
        owner, attribute = self.home.get(id(module), (None, ""))
        if id(module) in self.swapped:
            self._done(calls, self.swapped[id(module)])
        elif owner is None:
            name = type(module).__name__
            self._leave(calls, name, f"this {name} is not registered in a module")
        elif self._in_done(owner):
            return
        elif isinstance(module, ReLUSites):
            self._container(calls, module, owner, attribute)
        elif type(module) not in (nn.ReLU, nn.ReLU6):
            self._leave(calls, attribute, f"{type(module).__name__} is a subclass of ReLU", owner)
        else:
            self._plain(calls, module, owner, attribute)

    def _plain(self, calls: list[Call], module: nn.Module, owner: nn.Module, attribute: str) -> None:
        lines = self._lines(calls)
        six, inplace = isinstance(module, nn.ReLU6), bool(module.inplace)
        group = Group(self.names[id(owner)], attribute, six=six, inplace=inplace)
        if len(lines) == 1 and len(lines[0]) == 1:
            self._add(group, None, lines[0][0], self._join(owner, attribute))
        else:
            group.fresh = True
            index = 0
            reasons = [why_not(runs[0][0], len(runs) > 1) for runs in lines]
            for runs in lines:
                for number, run in enumerate(runs):
                    name = self._join(owner, f"{attribute}.{index + number}")
                    if any(reasons):
                        count = sum(map(len, lines))
                        text = f"called {count} times in a pass: {next(filter(None, reasons))}"
                        self.sites.left.append((self._site(run, name), text))
                    else:
                        self._add(group, str(index + number), run, name)
                if not any(reasons):
                    group.edits.append(self._edit(runs[0][0], "", index, len(runs)))
                index += len(runs)
        if group.sites:
            self.sites.groups.append(group)

    def _container(self, calls: list[Call], module: ReLUSites, owner: nn.Module, attribute: str) -> None:
        group = Group(self.names[id(owner)], attribute)
        for runs in self._lines(calls):
            line = runs[0][0].line
            edit = self._known(line) if isinstance(line, Line) else None
            if edit is None:
                self._leave([c for run in runs for c in run], attribute, "no pass had reached it before", owner)
                continue
            self._again(group, edit, runs, module, self._join(owner, attribute))
        if group.sites:
            self.sites.groups.append(group)

    # The functional calls in the methods of one module.

    def _functional(self, calls: list[Call]) -> None:
        owner = cast(Line, calls[0].line).owner  # only calls of known lines are here
        if self._in_done(owner):
            return
        known = {edit for edit in self.edits.get(id(owner), ()) if edit.container}
        attribute = next((edit.container for edit in known), self._free(owner))
        fresh = Group(self.names.get(id(owner), ""), attribute, fresh=not known)
        again = Group(fresh.owner, attribute)
        index = max((edit.first + edit.count for edit in known), default=0)
        for runs in self._lines(calls):
            call = runs[0][0]
            edit = self._known(cast(Line, call.line))
            reason = "" if edit else self._functional_reason(call, len(runs) > 1)
            if edit is not None:
                container = cast(ReLUSites, owner._modules[attribute])  # an edit goes to nothing else
                self._again(again, edit, runs, container, self._join(owner, attribute))
            elif reason:
                self._leave([c for run in runs for c in run], call.kind, reason, owner)
            else:
                for number, run in enumerate(runs):
                    name = str(index + number)
                    self._add(fresh, name, run, self._join(owner, f"{attribute}.{name}"))
                fresh.edits.append(self._edit(call, attribute, index, len(runs)))
                index += len(runs)
        self.sites.groups += [group for group in (fresh, again) if group.sites]

    def _functional_reason(self, call: Call, looped: bool) -> str:
        owner = cast(Line, call.line).owner
        if call.kind.startswith("nn.RNN"):
            return "it is within a fused recurrent layer"
        if id(owner) not in self.names:
            return f"this {type(owner).__name__} is not registered in a module"
        return why_not(call, looped)

    @staticmethod
    def _free(owner: nn.Module) -> str:
        name = _FUNCTIONAL
        while hasattr(owner, name):
            name += "_"
        return name

    # What all of them share.

    def _lines(self, calls: list[Call]) -> list[list[list[Call]]]:
        """The calls by place in the source, then by how-many-th run of it in one run of the method."""
        places: dict[Any, list[list[Call]]] = {}
        counts: dict[tuple[Any, int], int] = {}
        for call in calls:
            runs = places.setdefault(call.position, [])
            number = counts.get((call.position, id(call.frame)), 0)
            counts[call.position, id(call.frame)] = number + 1
            if number == len(runs):
                runs.append([])
            runs[number].append(call)
        return list(places.values())

    def _edit(self, call: Call, container: str, first: int, count: int) -> tuple[str, Edit]:
        line = cast(Line, call.line)
        number = cast(int, place(line))  # else there would be a reason to leave the call
        return self.names[id(line.owner)], Edit(line.method, number, container, first, count)

    def _known(self, line: Line) -> Edit | None:
        number = place(line)
        edits = self.edits.get(id(line.owner), frozenset())
        return next((e for e in edits if (e.method, e.place) == (line.method, number)), None)

    def _again(self, group: Group, edit: Edit, runs: list[list[Call]], container: ReLUSites, path: str) -> None:
        """The layers of a container that an earlier swap has made."""
        for number, run in enumerate(runs):
            key = str(min(edit.first + number, edit.first + edit.count - 1))
            name = f"{path}.{key}"
            if name in self.done:
                self._done(run, name)
            elif type(container[key]) in (nn.ReLU, nn.ReLU6):
                self._add(group, key, run, name)

    def _add(self, group: Group, key: str | None, calls: list[Call], name: str) -> None:
        site, reason = self._site(calls, name), self._differs(calls)
        if reason:
            self.sites.left.append((site, reason))
        if not reason or group.fresh:  # a new container needs all its layers
            group.sites.append((key, site))

    def _differs(self, calls: Sequence[Call]) -> str:
        """Why one layer cannot serve all calls of a site, "" if it can."""
        first = calls[0]
        for call in calls[1:]:
            here, there = (self._site([c], "") for c in (first, call))
            if self.granularity == "neuron" and here.shape != there.shape:
                return f"its input has the shape {here.shape} and {there.shape}"
            if self.granularity == "channel" and (here.channels, here.dim) != (there.channels, there.dim):
                return f"its input has {here.channels} and {there.channels} channels"
        return ""

    def _done(self, calls: list[Call], name: str) -> None:
        self.sites.swapped.append(replace(self.done[name], order=self.order[id(calls[0])]))

    def _site(self, calls: list[Call], name: str) -> ReLUSite:
        call = calls[0]
        return ReLUSite(name, call.kind, call.shape[1:], call.dim, self.order[id(call)], call.inplace)

    def _leave(self, calls: list[Call], what: str, reason: str, owner: nn.Module | None = None) -> None:
        name = self._join(owner or calls[0].caller, what or calls[0].kind)
        taken = {site.name for site, _ in self.sites.left}
        number = sum(other == name or other.startswith(f"{name}#") for other in taken)
        self.sites.left.append((self._site(calls, f"{name}#{number}" if number else name), reason))

    def _never(self, child: nn.Module) -> None:
        owner, attribute = self.home[id(child)]
        if not self._in_done(owner) and not (isinstance(owner, ReLUSites)):
            kind = "nn.ReLU6" if isinstance(child, nn.ReLU6) else "nn.ReLU"
            site = ReLUSite(self._join(owner, attribute), kind, (), 1, -1, bool(child.inplace))
            self.sites.left.append((site, "not reached in the recording pass"))

    def _in_done(self, owner: nn.Module) -> bool:
        """Whether a layer of an earlier swap holds it."""
        name = self.names.get(id(owner), "")
        return any(name == layer or name.startswith(f"{layer}.") for layer in self.done)

    def _number(self) -> None:
        """Counts the order without gaps."""
        sites = [site for group in self.sites.groups for _, site in group.sites if site.order >= 0]
        sites += self.sites.swapped + [site for site, _ in self.sites.left if site.order >= 0]
        numbers = {order: i for i, order in enumerate(sorted({site.order for site in sites}))}

        def numbered(site: ReLUSite) -> ReLUSite:
            return replace(site, order=numbers[site.order]) if site.order >= 0 else site

        for group in self.sites.groups:
            group.sites = [(key, numbered(site)) for key, site in group.sites]
        self.sites.swapped = sorted(map(numbered, self.sites.swapped), key=lambda site: site.order)
        self.sites.left = [(numbered(site), reason) for site, reason in self.sites.left]


def _scripted_relu(module: torch.jit.ScriptModule) -> bool:
    try:
        return "aten::relu" in str(module.inlined_graph)
    except (AttributeError, RuntimeError):  # a list of modules has no graph
        return False


class _Recorder(Recorder):
    """Also notes the calls of the layers of earlier swaps, for the order."""

    def __init__(self, finder: _Finder) -> None:
        super().__init__()
        self._finder = finder
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        for identity in self._finder.swapped:
            owner, attribute = self._finder.home[identity]
            layer = owner._modules[attribute]
            if layer is not None:
                self._handles.append(layer.register_forward_pre_hook(self._note))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _note(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.calls.append(Call("", False, False, (), 1, layer, None, None, None, "swapped"))
