"""The check of records: every tensor of one, before a kernel is given its pointer or a gather its indices.

A record may come from a file, from another version or from another transform. Its kind, dtype, shape and device are
always checked, its values where reading them makes nobody wait: on the CPU, and on a GPU where that is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

import mixaug_ext
from mixaug._checks import kind_of
from mixaug_ext import _records

__all__ = ["Rule", "Rules", "check_record", "holds_values", "kept", "reads_values"]

R = TypeVar("R")

#: Dtypes that are a part of another: what they hold is cast to it exactly.
_EXACT = {
    torch.int64: (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32),
    torch.float32: (torch.float16, torch.bfloat16),
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
}
#: Dtypes that hold more than another: cast to it where no value changes.
_WIDER = {torch.float32: (torch.float64,), torch.bool: (torch.uint8,)}
_LEAST, _MOST = -(2**63), 2**63 - 1


class Rule(NamedTuple):
    """What a tensor of a record must be.

    Attributes:
        dtype: in which it is used: int64, float32, float64 or bool. A smaller one (int32, uint8, float16) is cast; a
            wider one where that changes no value.
        shape: exact.
        low: smallest value allowed.
        high: largest value allowed; numbers are always finite, but for ints without bounds.
        kind: ``"number"``; ``"sign"``: -1 or 1; ``"box"``: XYXY, half-open, ordered and inside an image of ``low``
            rows and ``high`` columns.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf
    kind: str = "number"

    def told(self) -> str:
        """The rule in words."""
        if self.kind == "sign":
            return "-1 or 1"
        if self.kind == "box":
            return f"x0 <= x1 and y0 <= y1 inside the image of {self.low}x{self.high} pixels"
        if math.isinf(self.high):
            return "finite" if math.isinf(self.low) else f"finite and at least {self.low:g}"
        return f"from {self.low} to {self.high}" if self.dtype == torch.int64 else f"from {self.low:g} to {self.high:g}"

    def broken(self, value: Tensor) -> Tensor:
        """Where the values break the rule, a bool for each (of boxes for each box)."""
        if self.kind == "sign":
            return value.abs() != 1
        if self.kind == "box":
            x0, y0, x1, y1 = value.unbind(-1)
            return (x0 < 0) | (x1 < x0) | (x1 > self.high) | (y0 < 0) | (y1 < y0) | (y1 > self.low)
        if value.dtype == torch.int64:
            return (value < max(self.low, _LEAST)) | (value > min(self.high, _MOST))
        return ~(value.isfinite() & (value >= self.low) & (value <= self.high))


class Rules:
    """The rules of a record's tensors, by name; kept by who checks many records of one shape, see :func:`kept`.

    Attributes:
        fields: name, dtype, shape and rule of each tensor.
        in_one_pass: names of those that the C++ pass checks.
        table: what it is told of them, see :func:`mixaug_ext._records.table`.
        others: names of those with bounds that it does not check.
    """

    def __init__(self, **rules: Rule) -> None:
        self.rules = rules
        self.fields = tuple((name, rule.dtype, torch.Size(rule.shape), rule) for name, rule in rules.items())
        bounded = [name for name, rule in rules.items() if _is_bounded(rule)]
        self.in_one_pass = tuple(name for name in bounded if rules[name].dtype in (torch.int64, torch.float32))
        self.others = tuple(name for name in bounded if name not in self.in_one_pass)

    @functools.cached_property
    def table(self) -> bytes:
        """Built with the first record that is read: shapes may be symbols of a compiler before."""
        return _records.table([_as_words(self.rules[name]) for name in self.in_one_pass])


def kept(make: Callable[..., Rules]) -> Callable[..., Rules]:
    """Keeps the rules of the last few shapes; a compiler, whose shapes may be symbols, calls ``make`` itself.

    Example:
        >>> rules = kept(lambda n: Rules(index=Rule(torch.int64, (n,), 0, n - 1)))
        >>> rules(3) is rules(3)
        True
    """
    cached = functools.lru_cache(maxsize=64)(make)

    def rules(*shape: Any) -> Rules:
        return (make if torch.compiler.is_compiling() else cached)(*shape)

    return rules


def reads_values(device: torch.device, check_values: bool = False) -> bool:
    """Whether the values of a record on ``device`` may be read: on the CPU, or asked for; not in a compiled graph.

    Example:
        >>> reads_values(torch.device("cpu")), reads_values(torch.device("cuda"))
        (True, False)
    """
    return (device.type == "cpu" or (check_values and device.type != "meta")) and not torch.compiler.is_compiling()


def holds_values(value: Any) -> bool:
    """Whether it is a tensor with memory of its own, as parameters and ``tv_tensors`` have; fake ones have none.

    Example:
        >>> holds_values(torch.nn.Parameter(torch.ones(1))), holds_values([1.0])
        (True, False)
    """
    return isinstance(value, Tensor) and type(value).__torch_dispatch__ is Tensor.__torch_dispatch__


def check_record(
    record: R,
    rules: Rules,
    device: torch.device,
    *,
    values: bool,
    move: bool = False,
    name: str = "params",
) -> R:
    """The record as it may be used: checked, its tensors contiguous, in the dtypes of the rules, on ``device``.

    Args:
        record: a dataclass with a field for each rule.
        rules: of its tensors.
        device: on which the record is used.
        values: read the values, see :func:`reads_values`.
        move: tensors of other devices are moved; False: refused.
        name: of the record, for messages.

    Returns:
        the record itself where nothing had to be cast or moved, else a copy; its tensors are plain ones.

    Raises:
        TypeError: not a tensor, or of a dtype that cannot be cast exactly.
        ValueError: another shape or device, a value that changes in the cast, or one out of range.

    Example:
        >>> record = dataclasses.make_dataclass("Record", ["index"])(torch.tensor([0, 2], dtype=torch.uint8))
        >>> rules = Rules(index=Rule(torch.int64, (2,), 0, 2))
        >>> check_record(record, rules, torch.device("cpu"), values=True)
        Record(index=tensor([0, 2]))
    """
    tensors, changed = {}, {}
    compiling, plain, strided = torch.compiler.is_compiling(), True, torch.strided
    for field, dtype, shape, rule in rules.fields:
        value = given = getattr(record, field)
        if type(value) is not Tensor and holds_values(value) and not compiling:
            value = value.as_subclass(Tensor)
        if compiling or type(value) is not Tensor:
            plain = False
        elif (  # a third of a microsecond; a function call for each question would double it
            value.dtype is dtype
            and value.shape == shape
            and value.device == device
            and value.layout is strided
            and value.is_contiguous()
            and not value.is_neg()
        ):
            tensors[field] = value
            if value is not given:
                changed[field] = value
            continue
        tensors[field] = value = _fitting(f"{name}.{field}", value, rule, device, values, move)
        if value is not given:
            changed[field] = value
    # Tensors of torch's own kinds, such as fake ones, have no values to read.
    if values and plain and device.type != "meta":
        _check_values(name, tensors, rules, device)
    return dataclasses.replace(record, **changed) if changed else record  # type: ignore[type-var]


def _fitting(name: str, value: Any, rule: Rule, device: torch.device, values: bool, move: bool) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {kind_of(value)}")
    smaller, wider = value.dtype in _EXACT.get(rule.dtype, ()), value.dtype in _WIDER.get(rule.dtype, ())
    if value.dtype != rule.dtype and not smaller and not (wider and values):
        kind = str(rule.dtype).removeprefix("torch.")
        raise TypeError(f"{name} must be {kind}, or of a dtype that is cast to it exactly, got {kind_of(value)}")
    if value.shape != rule.shape:
        raise ValueError(f"{name} must have shape {rule.shape}, got {tuple(value.shape)}")
    if value.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {value.layout}")
    if value.device != device:
        if not move or value.device.type == "meta":
            raise ValueError(f"{name} must be on {device}, where the images are, got {value.device}")
        # Only towards a GPU: a copy to the host that is not waited for could be read before it is there.
        value = value.to(device, non_blocking=device.type != "cpu")
    if value.dtype != rule.dtype:
        cast = value.to(rule.dtype)
        if wider and not torch.equal(cast.to(value.dtype).nan_to_num(), value.nan_to_num()):
            at = int((cast.to(value.dtype) != value).flatten().int().argmax())
            raise ValueError(f"{name} must be exact as {rule.dtype}, got {value.flatten()[at].item()!r}, which is not")
        value = cast
    return value.resolve_neg().contiguous()


def _check_values(name: str, tensors: dict[str, Tensor], rules: Rules, device: torch.device) -> None:
    fields = (*rules.in_one_pass, *rules.others)
    one_pass = device.type == "cpu" and mixaug_ext.library() is not None
    if one_pass and _records.first_out_of_range([tensors[field] for field in rules.in_one_pass], rules.table) < 0:
        fields = rules.others
    for field in fields:
        rule = rules.rules[field]
        broken = rule.broken(tensors[field])
        if bool(broken.any()):
            at = int(broken.flatten().int().argmax())
            got = tensors[field].reshape(-1, 4)[at] if rule.kind == "box" else tensors[field].flatten()[at]
            where = torch.unravel_index(torch.tensor(at, dtype=torch.int64), broken.shape) if broken.ndim else ()
            raise ValueError(f"{name}.{field} must be {rule.told()}, got {got.tolist()} at {[int(i) for i in where]}")


def _is_bounded(rule: Rule) -> bool:
    if rule.dtype == torch.bool:
        return False
    return rule.dtype != torch.int64 or rule.kind == "sign" or not (math.isinf(rule.low) and math.isinf(rule.high))


def _as_words(rule: Rule) -> _records.Words:
    count = math.prod(rule.shape)
    if rule.kind == "sign":
        return count, _records.SIGNS, 0, 0, 0.0, 0.0
    if rule.kind == "box":
        return count, _records.BOXES, int(rule.low), int(rule.high), 0.0, 0.0
    if rule.dtype == torch.float32:
        most = torch.finfo(torch.float32).max  # infinities are not numbers
        return count, _records.FLOATS, 0, 0, max(rule.low, -most), min(rule.high, most)
    low, high = (int(x) if math.isfinite(x) else bound for x, bound in ((rule.low, _LEAST), (rule.high, _MOST)))
    return count, _records.INTS, low, high, 0.0, 0.0
