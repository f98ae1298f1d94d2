"""What a swap of ReLU found and did."""

from __future__ import annotations
import __future__

import ast
import copyreg
import functools
import hashlib
import itertools
import linecache
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from mixaug.nn.activations import DReLU, SReLU
from mixaug.nn.replace.calls import RELU_FUNCTIONS, Call, Line, ReLUSites, take_over

__all__ = [
    "Edit",
    "Group",
    "ReLUReport",
    "ReLUSite",
    "Swap",
    "edits_of",
    "original_class",
    "place",
    "rewritten",
    "why_not",
]


@dataclass(frozen=True)
class ReLUSite:
    """One call site of a ReLU.

    Args:
        name: where its layer is or would be in the model, such as ``layer1.0.relu.1``; of a site that is left: the
            module and what it calls.
        kind: "nn.ReLU", "nn.ReLU6", "F.relu", "F.relu6", "torch.relu", "Tensor.relu" or one of these with ``_``.
        shape: of its input in the recording pass, without the batch.
        dim: dimension of the channels in the input with its batch; -1 for the last of more than two.
        order: its place in the order of execution, from 0; auxiliary heads count. -1: not reached.
        inplace: whether it writes into its input.

    Example:
        >>> ReLUSite("relu", "nn.ReLU", (64, 8, 8), 1, 0, True).channels
        64
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dim: int
    order: int
    inplace: bool

    @property
    def channels(self) -> int:
        """The number of channels of the input."""
        if not self.shape:
            return 1
        return self.shape[-1] if self.dim < 0 else self.shape[max(self.dim - 1, 0)]

    @property
    def six(self) -> bool:
        """Whether it is ReLU6."""
        return self.kind.rstrip("_").endswith("6")


@dataclass(frozen=True)
class ReLUReport:
    """What :func:`mixaug.replace_relu` found; ``print`` it for a table.

    Args:
        swapped: the sites that have another layer now, in order of execution, those of earlier calls too.
        left: the sites that are still ReLU, each with the reason.
        count: how many sites this call swapped.

    Example:
        >>> site = ReLUSite("relu", "nn.ReLU", (64, 8, 8), 1, 0, True)
        >>> print(ReLUReport((), ((site, "not chosen"),), 0))
        0 sites swapped in this call, 0 in all, 1 left
        left     relu  nn.ReLU  64x8x8  not chosen
    """

    swapped: tuple[ReLUSite, ...]
    left: tuple[tuple[ReLUSite, str], ...]
    count: int

    def __str__(self) -> str:
        rows = [("swapped", s, "in place" if s.inplace else "") for s in self.swapped]
        rows += [("left", site, reason) for site, reason in self.left]
        sizes = ["x".join(map(str, site.shape)) for _, site, _ in rows]
        name, kind, size = (
            max((len(text) for text in column), default=0)
            for column in ([s.name for _, s, _ in rows], [s.kind for _, s, _ in rows], sizes)
        )
        lines = [
            f"{what:<7}  {site.name:<{name}}  {site.kind:<{kind}}  {shape:<{size}}  {more}".rstrip()
            for (what, site, more), shape in zip(rows, sizes, strict=True)
        ]
        plural = "site" if self.count == 1 else "sites"
        head = f"{self.count} {plural} swapped in this call, {len(self.swapped)} in all, {len(self.left)} left"
        return "\n".join([head, *lines])


_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_made: dict[tuple[type[nn.Module], frozenset[Edit]], type[nn.Module]] = {}
_parsed: dict[str, tuple[list[str], dict[tuple[str, int], ast.FunctionDef]]] = {}


@dataclass(frozen=True)
class Edit:
    """One call in the source of a class that goes to a layer of :class:`~mixaug.nn.replace.calls.ReLUSites`.

    Args:
        method: that the call is in.
        place: the how-many-th call of the method it is.
        container: attribute of ``self`` that holds the layers; "": the call's own function is the container.
        first: name of the layer of the first run of the line in one run of the method.
        count: how many layers it has: 1 outside of loops.
    """

    method: str
    place: int
    container: str
    first: int
    count: int


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before :func:`rewritten`.

    Args:
        module: any.
    """
    return getattr(type(module), "_mixaug_original", type(module))


def edits_of(module: nn.Module) -> frozenset[Edit]:
    """The edits of the module's class.

    Args:
        module: any.
    """
    return getattr(type(module), "_mixaug_edits", frozenset())


def place(line: Line) -> int | None:
    """The how-many-th call of its method a line is; None where there is no source.

    Args:
        line: as the recorder found it.
    """
    node = _definition(line.function)
    calls = _calls(node) if node is not None else []
    found = [
        i
        for i, call in enumerate(calls)
        if (call.end_lineno, call.end_col_offset) == line.end  # both count bytes
    ]
    return found[0] if len(found) == 1 else None


def why_not(call: Call, looped: bool) -> str:
    """Why the line of a call cannot be edited, "" if it can.

    Args:
        call: whose ``line`` is a :class:`Line`.
        looped: whether it runs more than once in one run of the method.
    """
    line = call.line
    if isinstance(line, str):
        return line
    kind = original_class(line.owner)
    name = line.function.__qualname__
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return f"{kind.__name__} has its own way of pickling" + " (torch.fx)" * issubclass(kind, fx.GraphModule)
    number = place(line)
    if number is None:
        return f"the source of {name} cannot be read"
    definition = cast(ast.FunctionDef, _definition(line.function))  # where the place was found
    node = _calls(definition)[number]
    inner = _path(definition, node)
    if any(_self_name(definition) in {a.arg for a in ast.walk(f.args) if isinstance(a, ast.arg)} for f in inner):
        return f"a function in {name} has an argument {_self_name(definition)}"
    if looped and inner:
        return f"a function in {name} runs several times"
    if any(isinstance(value, ast.Starred) for value in node.args) or any(k.arg is None for k in node.keywords):
        return f"its arguments in {name} are not written out"
    called = _value(node.func, line, _self_name(definition))
    if call.module is not None:
        if called is not call.module:
            return f"{name} calls it by another name than an attribute of {_self_name(definition)}"
        return "" if len(node.args) == 1 and not node.keywords else f"{name} calls it with a keyword"
    while isinstance(called, functools.partial):
        called = called.func if not called.args else None
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("relu", "relu_") and not node.args + node.keywords:
        called = getattr(Tensor, node.func.attr)
    try:
        known = called in RELU_FUNCTIONS
    except TypeError:  # what cannot be hashed
        known = False
    if not known:
        return f"{name} calls it by a name that may stand for something else"
    options = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "inplace")]
    if not all(isinstance(value, ast.Constant) for value in options):
        return f"whether it is in place is decided in {name} while it runs"
    return ""


def rewritten(original: type[nn.Module], edits: frozenset[Edit]) -> type[nn.Module]:
    """A subclass with the class's name in which the calls go to layers; the class itself without edits.

    Instances pickle and copy by the original class and the edits; one class serves all with the same edits.

    Args:
        original: the class.
        edits: at least one.

    Raises:
        ValueError: the source has other calls than the edits were made for.
    """
    if not edits:
        return original
    if (original, edits) not in _made:
        body: dict[str, Any] = {
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__doc__": original.__doc__,
            "__reduce_ex__": _reduce_ex,
            "_mixaug_original": original,
            "_mixaug_edits": edits,
        }
        for method in sorted({edit.method for edit in edits}):
            body[method] = _edited(original, method, {edit for edit in edits if edit.method == method})
        _made[original, edits] = types.new_class(
            original.__name__, (original,), exec_body=lambda names: names.update(body)
        )
    return _made[original, edits]


def _reduce_ex(self: Any, protocol: Any) -> Any:
    kind = type(self)
    make, args, *state = super(kind, self).__reduce_ex__(max(2, int(protocol)))
    if make is not copyreg.__newobj__ or args[0] is not kind:  # type: ignore[attr-defined]
        raise TypeError(f"{kind.__qualname__} has its own way of pickling, which a swapped model does not support")
    edits = sorted((e.method, e.place, e.container, e.first, e.count) for e in kind._mixaug_edits)
    return (_rebuild, (kind._mixaug_original, tuple(edits), _digest(kind._mixaug_original, edits), args[1:]), *state)


def _rebuild(original: type[nn.Module], edits: tuple[tuple[Any, ...], ...], digest: str, args: tuple[Any, ...]) -> Any:
    """An instance without state; :mod:`pickle` and :mod:`copy` fill it."""
    if _digest(original, edits) != digest:
        raise ValueError(
            f"{original.__module__}.{original.__qualname__} must have the source it was saved with, got another: "
            "build the model, call replace_relu and load its state_dict"
        )
    kind = rewritten(original, frozenset(Edit(*edit) for edit in edits))
    return kind.__new__(kind, *args)


def _digest(original: type[nn.Module], edits: Any) -> str:
    """Of the source that the edits count calls in."""
    texts = []
    for method in sorted({edit[0] for edit in edits}):
        node = _definition(getattr(original, method, None))
        texts.append("" if node is None else ast.unparse(node))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _edited(original: type[nn.Module], method: str, edits: set[Edit]) -> FunctionType:
    function = getattr(original, method)
    definition = _definition(function)
    if definition is None:
        raise ValueError(f"the source of {original.__qualname__}.{method} must be there, got none")
    definition = cast(ast.FunctionDef, ast.parse(ast.unparse(definition)).body[0])  # a copy
    own = _self_name(definition)
    definition.decorator_list = []
    calls = _calls(definition)
    counters = []
    for number, edit in enumerate(sorted(edits, key=lambda e: (e.place, e.first))):
        node = calls[edit.place]
        target: ast.expr = node.func
        if edit.container:
            target = ast.Attribute(ast.Name(own, ast.Load()), edit.container, ast.Load())
            node.args = [_input(node)]
            node.keywords = []
        if edit.count == 1:
            node.func = ast.Subscript(target, ast.Constant(str(edit.first)), ast.Load())
        else:
            counters.append(f"_relu_call_{number}")
            pick = f"pick({edit.first}, {edit.first + edit.count - 1}, ({counters[-1]} := {counters[-1]} + 1))"
            node.func = cast(ast.Call, ast.parse(pick, mode="eval").body)
            node.func.func = ast.Attribute(target, "pick", ast.Load())
    start = int(ast.get_docstring(definition) is not None)
    definition.body[start:start] = ast.parse("".join(f"{name} = -1\n" for name in counters)).body
    return _compiled(function, original, definition)


def _compiled(function: FunctionType, original: type[nn.Module], definition: ast.FunctionDef) -> FunctionType:
    """The definition as a function with the globals, closure and defaults of another one."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    home = next(kind for kind in original.__mro__ if vars(kind).get(function.__name__) is function)
    # Within a class of the same name, so that names such as self.__x mean the same.
    text = "\n".join(
        [
            f"def factory({', '.join(name for name in cells if name != '__class__')}):",
            f"    class {home.__name__}:",
            *("        " + row for row in ast.unparse(definition).split("\n")),
        ]
    )
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = f"<mixaug {original.__module__}.{original.__qualname__}.{function.__name__} {mark}>"
    module = compile(text, path, "exec", flags=function.__code__.co_flags & _FUTURE, dont_inherit=True)
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)  # for tracebacks and inspect
    code = _code(_code(_code(module, "factory"), home.__name__), function.__name__)
    code = code.replace(co_qualname=function.__code__.co_qualname)
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    functools.update_wrapper(made, function)
    del made.__wrapped__  # type: ignore[attr-defined]  # it would show the source before the edits
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _code(outer: CodeType, name: str) -> CodeType:
    return next(c for c in outer.co_consts if isinstance(c, CodeType) and c.co_name == name)


def _input(node: ast.Call) -> ast.expr:
    if node.args:
        return node.args[0]
    given = [k.value for k in node.keywords if k.arg == "input"]
    return given[0] if given else cast(ast.Attribute, node.func).value


def _calls(definition: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(definition) if isinstance(node, ast.Call)]


def _self_name(definition: ast.FunctionDef) -> str:
    return (definition.args.posonlyargs + definition.args.args)[0].arg


def _path(outer: ast.AST, node: ast.AST) -> list[Any]:
    """The functions between a method and a node in it."""
    for child in ast.iter_child_nodes(outer):
        if node is child or any(node is inner for inner in ast.walk(child)):
            own = [child] if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) else []
            return own + ([] if node is child else _path(child, node))
    return []


def _value(node: ast.expr, line: Line, own: str) -> Any:
    """What a chain of attributes and constant keys from ``self``, a global or a name around stands for, or None."""
    try:
        if isinstance(node, ast.Name):
            if node.id == own:
                return line.owner
            code, closure = line.function.__code__, line.function.__closure__ or ()
            if node.id in code.co_freevars:
                return closure[code.co_freevars.index(node.id)].cell_contents
            if node.id in {*code.co_varnames, *code.co_cellvars, *line.code.co_varnames, *line.code.co_cellvars}:
                return None
            return line.function.__globals__.get(node.id)
        if isinstance(node, ast.Attribute):
            value = _value(node.value, line, own)
            return None if value is None else getattr(value, _mangled(node.attr, line))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, (ast.Constant, ast.UnaryOp)):
            value = _value(node.value, line, own)
            return None if value is None else value[ast.literal_eval(node.slice)]
    except (AttributeError, LookupError, TypeError, ValueError):
        pass
    return None


def _mangled(name: str, line: Line) -> str:
    home = line.function.__qualname__.split(".")[-2:][0].lstrip("_")
    return f"_{home}{name}" if name.startswith("__") and not name.endswith("__") else name


def _definition(function: Any) -> ast.FunctionDef | None:
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if code.co_filename not in _parsed or _parsed[code.co_filename][0] != lines:
        try:
            found = dict(_definitions(ast.parse("".join(lines))))
        except SyntaxError:
            found = {}
        _parsed[code.co_filename] = (lines, found)
    return _parsed[code.co_filename][1].get((code.co_name, code.co_firstlineno))


def _definitions(tree: ast.AST) -> Iterator[tuple[tuple[str, int], ast.FunctionDef]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield (node.name, first), node


@dataclass
class Group:
    """Sites whose layers are put in together.

    Args:
        owner: name of the module that holds them.
        attribute: of the owner: the ReLU, or what holds one layer a site.
        sites: with the name of the site's layer in that container, None for the ReLU itself.
        edits: of source, each with the name of the module that it belongs to; what the container needs to be used.
        fresh: whether the container is to be made.
        six: of the ReLU that was there, for the container.
        inplace: of the same.
    """

    owner: str
    attribute: str
    sites: list[tuple[str | None, ReLUSite]] = field(default_factory=list)
    edits: list[tuple[str, Edit]] = field(default_factory=list)
    fresh: bool = False
    six: bool = False
    inplace: bool = False


class Swap:
    """The changes of one call, which can be taken back.

    Args:
        model: to change.
        groups: its sites.
    """

    def __init__(self, model: nn.Module, groups: list[Group]) -> None:
        self._groups = groups
        self._modules = dict(model.named_modules())
        self._model = model
        self._before: list[tuple[nn.Module, type[nn.Module], dict[str, Any], Any]] = []

    def apply(self, layers: dict[str, nn.Module]) -> None:
        """Puts the layers in.

        Args:
            layers: by the names of their sites.
        """
        edits: dict[str, set[Edit]] = {}
        for group in self._groups:
            if any(site.name in layers for _, site in group.sites):
                self._group(group, layers)
                for owner, edit in group.edits:
                    edits.setdefault(owner, set()).add(edit)
        for name, more in edits.items():
            module = self._modules[name]
            self._note(module)
            module.__class__ = rewritten(original_class(module), edits_of(module) | more)

    def undo(self) -> None:
        """Makes the model what it was."""
        for module, kind, children, flag in reversed(self._before):
            module.__class__ = kind
            module._modules.clear()
            module._modules.update(children)
            if flag is not None:
                module.activation_relu_or_gelu = flag

    def _note(self, module: nn.Module) -> None:
        flag = getattr(module, "activation_relu_or_gelu", None)
        self._before.append((module, type(module), dict(module._modules), flag))

    def _group(self, group: Group, layers: dict[str, nn.Module]) -> None:
        owner = self._modules[group.owner]
        self._note(owner)
        before = owner._modules.get(group.attribute)
        where = _device_and_dtype(owner, self._model)
        new: dict[str | None, nn.Module] = {}
        for key, site in group.sites:
            layer = layers.get(site.name)
            if layer is None:
                layer = nn.ReLU6(site.inplace) if site.six else nn.ReLU(site.inplace)
            elif isinstance(layer, (DReLU, SReLU)):
                layer.site = site.name
                layer.to(**where)
            if group.fresh or site.name in layers:
                new[key] = layer
        if None in new:
            owner._modules[group.attribute] = take_over(new[None], cast(nn.Module, before))
        elif group.fresh:
            sites = ReLUSites(group.six, group.inplace)
            for key, layer in new.items():
                sites[str(key)] = layer.train(owner.training) if before is None else take_over(layer, before)
            sites.train(owner.training)
            owner._modules[group.attribute] = sites
        else:
            sites = cast(ReLUSites, before)
            self._note(sites)
            for key, layer in new.items():
                sites._modules[str(key)] = take_over(layer, sites[str(key)])
        if getattr(owner, "activation_relu_or_gelu", 0):
            owner.activation_relu_or_gelu = 0  # or TransformerEncoderLayer calls a kernel with a ReLU of its own


def _device_and_dtype(owner: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Where a cap of the owner belongs; it is float32 beside half precision too."""
    values = itertools.chain(owner.parameters(), owner.buffers(), model.parameters(), model.buffers())
    first = next((value for value in values if value.is_floating_point()), None)
    if first is None:
        return {}
    return {"device": first.device, "dtype": torch.float64 if first.dtype == torch.float64 else torch.float32}
