"""The checks of arguments for the whole package: each message names the argument, its rule and the value received.

One sentence for one fault: a wrong kind is a ``TypeError``, a value out of range or an unknown name a ``ValueError``.
NumPy scalars (and 0-d arrays and tensors of one number) are numbers as Python's are; bools are not.
"""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ABOVE_ZERO",
    "BELOW_ONE",
    "MAX_BATCH",
    "MAX_BOXES",
    "MAX_CHAINS",
    "MAX_CLASSES",
    "MAX_COUNT",
    "MAX_PICTURES",
    "MAX_SEED",
    "MAX_SIDE",
    "MAX_THREADS",
    "RANGE_SLACK",
    "bytes_hint",
    "check_choice",
    "check_choices",
    "check_count_range",
    "check_dense",
    "check_device",
    "check_field",
    "check_finite",
    "check_flag",
    "check_generator",
    "check_int",
    "check_ints",
    "check_label_values",
    "check_length",
    "check_number",
    "check_range",
    "check_seed",
    "check_size",
    "check_tensor",
    "clipped",
    "did_you_mean",
    "image_range",
    "in_unit_range",
    "kind_of",
    "out_of_range",
]


#: The lowest number that is above 0, and the highest below 1: bounds that exclude their end.
ABOVE_ZERO, BELOW_ONE = math.ulp(0.0), math.nextafter(1.0, 0.0)
#: Largest seed: what a torch.Generator takes and every store of ours keeps.
MAX_SEED = 2**63 - 1
#: Largest side of an image in pixels: a batch of one float32 image of it is 3 GiB.
MAX_SIDE = 16_384
#: Most chains (or steps of one) of IPMix, and most boxes of an image: far beyond any use, below what exhausts memory.
MAX_CHAINS, MAX_BOXES = 100, 1_000
#: Most images of one draw, and the largest number of anything else that is only counted (steps, images of a pass).
MAX_BATCH, MAX_COUNT = 2**20, 2**31 - 1
#: Most classes: the rows of a few labels still fit into memory.
MAX_CLASSES = 10_000_000
#: Most pictures of a mixing set, and most threads or processes that one call may ask for.
MAX_PICTURES, MAX_THREADS = 10_000_000, 1_024
#: How far a value of an image in [0, 1] may lie outside: half a level of 8 bits. Images that were normalised and back
#: are off by 3e-8 in float32, by 2e-3 in bfloat16; such values are rounding and are clipped.
RANGE_SLACK = 1 / 510

#: How far a row of probabilities may be from 1: float32 rounding over many classes; float16 and bfloat16 values.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 1e-2


def kind_of(value: object) -> str:
    """How a message names the kind of a value: its type, and of a tensor or array its dtype and shape.

    Example:
        >>> kind_of(2.5), kind_of(torch.zeros(2, 3))
        ('float', 'a torch.float32 tensor of shape (2, 3)')
    """
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    return type(value).__name__


def check_int(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """``value`` as an int in ``[low, high]``; NumPy's integers are taken, bools are refused.

    Args:
        name: of the argument, for messages.
        value: what was given.
        low: smallest value allowed; None: no bound.
        high: largest value allowed; None: no bound.

    Raises:
        TypeError: not an integer.
        ValueError: out of range.

    Example:
        >>> check_int("boxes", np.int64(2), 1)
        2
    """
    value = value if type(value) is int else _scalar(value)
    if type(value) is not int:  # a symbolic int of torch.compile is one here, and stays symbolic
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be an int, got {_shown(value)}")
        value = int(value)
    number: int = value
    if (low is not None and number < low) or (high is not None and number > high):
        if high is None:
            rule = f"at least {low}"
        elif low is None:
            rule = f"at most {high}"
        else:
            rule = f"from {low} to {high}"
        raise ValueError(f"{name} must be {rule}, got {_digits(number)}")
    return number


def check_ints(name: str, values: Any, low: int | None = None, high: int | None = None) -> tuple[int, ...]:
    """One or more whole numbers in ``[low, high]``, as a tuple in the order given.

    Raises:
        TypeError: not a sequence (one number or a string is not), or something else in it.
        ValueError: none, or one out of range.

    Example:
        >>> check_ints("patch_sizes", [4, np.int64(8)], 2)
        (4, 8)
    """
    if not _is_sequence(values):
        raise TypeError(f"{name} must be a sequence of ints, got {_shown(values)}")
    if not len(values):
        raise ValueError(f"{name} must be one int or more, got none")
    return tuple(check_int(name, value, low, high) for value in values)


def check_size(name: str, value: Any, low: int = 1, high: int = MAX_SIDE) -> tuple[int, int]:
    """Height and width in pixels, each in ``[low, high]``.

    Raises:
        TypeError: not a pair of whole numbers.
        ValueError: out of range.

    Example:
        >>> check_size("size", [32, 48])
        (32, 48)
    """
    if not _is_sequence(value) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (H, W), got {_shown(value)}")
    return check_int(name, value[0], low, high), check_int(name, value[1], low, high)


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    hint: Callable[[float], str] | None = None,
) -> float:
    """``value`` as a finite float in ``[low, high]``; NumPy's numbers are taken, bools are refused.

    Args:
        name: of the argument, for messages.
        value: what was given.
        low: smallest value allowed; `ABOVE_ZERO` means above 0.
        high: largest value allowed; `BELOW_ONE` means below 1.
        hint: of a value out of range, what to say of it at the end of the message.

    Raises:
        TypeError: not a real number.
        ValueError: NaN, infinite or out of range.

    Example:
        >>> check_number("p", np.float32(1), 0.0, 1.0)
        1.0
    """
    value = _scalar(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond float's range
        number = math.inf if abs(value) == value else -math.inf
    if not (math.isfinite(number) and low <= number <= high):
        shown = _digits(value) if isinstance(value, int) else repr(number)
        told = hint(number) if hint is not None and math.isfinite(number) else ""
        raise ValueError(f"{name} must be {_bounds(low, high)}, got {shown}{told}")
    return number


def check_length(name: str, value: Any, low: float = 0.0) -> float:
    """``value`` as a number from ``low`` to 1 by which a pixel of images in [0, 1] can change.

    Args:
        name: of the argument, for messages.
        value: what was given.
        low: smallest value allowed; `ABOVE_ZERO` means above 0.

    Raises:
        TypeError: not a real number.
        ValueError: out of range; a whole number asks whether steps of 8-bit images were meant.

    Example:
        >>> check_length("eps", 0.5)
        0.5
    """
    return check_number(name, value, low, 1.0, bytes_hint)


def bytes_hint(value: float) -> str:
    """Asks whether a whole number above 1, given as a length in pixels of [0, 1], was meant in steps of 8-bit images.

    Example:
        >>> bytes_hint(8.0), bytes_hint(1.5)
        ('; did you mean 8/255?', '')
    """
    return f"; did you mean {value:g}/255?" if 1 < value <= 255 and float(value).is_integer() else ""


def check_flag(name: str, value: Any) -> bool:
    """``value`` as True or False; NumPy's are taken, numbers and strings are refused.

    Raises:
        TypeError: anything else.

    Example:
        >>> check_flag("targeted", np.True_)
        True
    """
    value = _scalar(value)
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """``value``, if it is one of the names ``choices``; a message of an unknown name offers the nearest.

    Raises:
        TypeError: not a string.
        ValueError: not one of the choices.

    Example:
        >>> check_choice("norm", "l2", ("linf", "l2"))
        'l2'
    """
    known = tuple(choices)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(known)}, got {_shown(value)}")
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}{did_you_mean(value, known)}")
    return str(value)


def check_choices(name: str, values: Any, choices: Iterable[str]) -> tuple[str, ...]:
    """``values``, one or more different names of ``choices``, as a tuple in the order given.

    Raises:
        TypeError: not a sequence of strings (one string is not).
        ValueError: an unknown name, a name twice, or none.

    Example:
        >>> check_choices("levels", ["pixel", "image"], ("image", "patch", "pixel"))
        ('pixel', 'image')
    """
    known = tuple(choices)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of names, got {_shown(values)}")
    if not values:
        raise ValueError(f"{name} must be one or more of {', '.join(known)}, got none")
    chosen = tuple(check_choice(name, value, known) for value in values)
    if len(set(chosen)) < len(chosen):
        twice = next(value for at, value in enumerate(chosen) if value in chosen[:at])
        raise ValueError(f"{name} must be different names, got {twice!r} twice")
    return chosen


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """The end of a message that offers the nearest of the choices, or nothing where none is near.

    Example:
        >>> did_you_mean("Gausian_noise", ["gaussian_noise", "fog"]), did_you_mean("x", ["fog"])
        ("; did you mean 'gaussian_noise'?", '')
    """
    lowered = {choice.lower().replace("-", "_"): choice for choice in choices}
    near = difflib.get_close_matches(value.lower().replace("-", "_"), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def check_count_range(name: str, value: Any, high: int | None = None) -> tuple[int, int]:
    """A number of at least 1, or a pair of such, as the range ``(low, high)``.

    Args:
        name: of the argument, for messages.
        value: what was given.
        high: largest number allowed; None: no bound.

    Raises:
        TypeError: not a whole number, or a pair with something else in it.
        ValueError: out of range, not a pair, or a pair that falls.

    Example:
        >>> check_count_range("boxes", 2), check_count_range("boxes", [1, 3])
        ((2, 2), (1, 3))
    """
    value = _scalar(value)
    if _is_sequence(value):
        if len(value) != 2:
            raise ValueError(f"{name} must be a number or a pair (low, high), got {_shown(value)}")
        least, most = (check_int(name, end, 1, high) for end in value)
        if least > most:
            raise ValueError(f"{name} must be a range (low, high) with low <= high, got {(least, most)}")
        return least, most
    number = check_int(name, value, 1, high)
    return number, number


def check_range(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """A pair of numbers in ``[low, high]`` of which the second is not the smaller.

    Raises:
        TypeError: not a pair of numbers.
        ValueError: not two, out of range, or a pair that falls.

    Example:
        >>> check_range("scale", [1, 1.5], 1.0)
        (1.0, 1.5)
    """
    if not _is_sequence(value):
        raise TypeError(f"{name} must be a pair (low, high), got {_shown(value)}")
    if len(value) != 2:
        raise ValueError(f"{name} must be a pair (low, high), got {_shown(value)}")
    least, most = (check_number(name, end, low, high) for end in value)
    if least > most:
        raise ValueError(f"{name} must be a range (low, high) with low <= high, got {(least, most)}")
    return least, most


def check_field(owner: Any, name: str, check: Callable[..., Any], *bounds: Any, optional: bool = False) -> None:
    """Replaces the field ``name`` of a frozen dataclass by what ``check(name, value, *bounds)`` makes of it.

    Args:
        owner: while it is made, in ``__post_init__``.
        name: of the field.
        check: one of the checks of this file.
        bounds: further arguments of it.
        optional: None is allowed, and stays.

    Example:
        >>> import dataclasses
        >>> Law = dataclasses.make_dataclass("Law", ["p"], frozen=True)
        >>> law = Law(np.float32(1))
        >>> check_field(law, "p", check_number, 0.0, 1.0)
        >>> law
        Law(p=1.0)
    """
    value = getattr(owner, name)
    if not (optional and value is None):
        object.__setattr__(owner, name, check(name, value, *bounds))


def check_seed(name: str, value: Any) -> int:
    """``value`` as a seed: an int from 0 to 2^63 - 1.

    Raises:
        TypeError: not an integer.
        ValueError: out of range.

    Example:
        >>> check_seed("seed", 0)
        0
    """
    return check_int(name, value, 0, MAX_SEED)


def check_generator(generator: Any, name: str = "generator") -> None:
    """Raises TypeError unless ``generator`` is a torch.Generator or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"{name} must be a torch.Generator or None, got {_shown(generator)}")


def check_device(name: str, value: Any) -> torch.device:
    """``value`` as a torch.device.

    Raises:
        TypeError: neither a device nor the name of one.
        ValueError: a name that torch does not know.

    Example:
        >>> check_device("device", "cpu")
        device(type='cpu')
    """
    if isinstance(value, torch.device):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a torch.device or the name of one, got {_shown(value)}")
    try:
        return torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"{name} must be a device of torch such as 'cpu' or 'cuda:0', got {value!r}") from error


def check_dense(name: str, value: Any, what: str = "a tensor") -> None:
    """Raises a TypeError unless ``value`` is a tensor that holds each of its numbers: not a sparse one.

    Args:
        name: of the argument, for messages.
        value: what was given.
        what: it must be.

    Example:
        >>> check_dense("images", torch.eye(2).to_sparse())
        Traceback (most recent call last):
        TypeError: images must be a tensor, got one with the layout torch.sparse_coo
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {what}, got {kind_of(value)}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be {what}, got one with the layout {value.layout}")


def check_tensor(name: str, value: Any, ndim: int | None = None, *, floating: bool | None = None) -> Tensor:
    """``value``, if it is a dense tensor of so many dimensions. Reads no value.

    Args:
        name: of the argument, for messages.
        value: what was given.
        ndim: number of dimensions; None: any.
        floating: True for floating point, False for whole numbers (no bools), None for either.

    Raises:
        TypeError: no dense tensor, or of another kind of numbers.
        ValueError: another number of dimensions.

    Example:
        >>> check_tensor("logits", torch.zeros(2, 3), 2, floating=True).shape
        torch.Size([2, 3])
    """
    check_dense(name, value)
    real = value.is_floating_point()
    if (
        (floating is not None and real is not floating)
        or value.is_complex()
        or (not floating and value.dtype == torch.bool)
    ):
        wanted = "numbers" if floating is None else "floating point" if floating else "integers"
        raise TypeError(f"{name} must be a tensor of {wanted}, got {value.dtype}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(value.shape)}")
    return value


def out_of_range(name: str, low: float, high: float, cure: str = "") -> str:
    """What to say of images of which the least and the largest value are outside [0, 1], or NaN.

    Args:
        name: of the argument.
        low: the least value.
        high: the largest.
        cure: what to do about it.

    Example:
        >>> out_of_range("images", -0.1, 1.00390625)
        'images must lie in [0, 1], got values from -0.1 to 1.00390625'
    """
    return f"{name} must lie in [0, 1], got values from {low:.9g} to {high:.9g}{cure}"


def image_range(images: Tensor) -> tuple[float, float]:
    """Least and largest value of the images; NaN where one is. Reads them, so a GPU makes the host wait."""
    low, high = images.detach().aminmax()
    return float(low), float(high)


def in_unit_range(low: float, high: float) -> bool:
    """Whether values from ``low`` to ``high`` are those of images in [0, 1], up to rounding (`RANGE_SLACK`).

    Example:
        >>> in_unit_range(-3e-8, 1.0), in_unit_range(0.0, 1.1), in_unit_range(float("nan"), 1.0)
        (True, False, False)
    """
    return low >= -RANGE_SLACK and high <= 1.0 + RANGE_SLACK


def clipped(name: str, images: Tensor, cure: str = "") -> Tensor:
    """The images, with values outside [0, 1] by rounding clipped. Reads them.

    Raises:
        ValueError: a value is further outside, or NaN.

    Example:
        >>> clipped("images", torch.tensor([-3e-8, 0.5]))
        tensor([0.0000, 0.5000])
    """
    if not images.numel():
        return images
    low, high = image_range(images)
    if not in_unit_range(low, high):
        raise ValueError(out_of_range(name, low, high, cure))
    return images if low >= 0 and high <= 1 else images.detach().clamp(0, 1)


def check_finite(name: str, value: Tensor) -> None:
    """Raises ValueError, with their number, if values of a floating tensor are NaN or infinite. Reads the tensor."""
    if value.is_floating_point() and value.numel() and not bool(value.detach().isfinite().all()):
        count = int((~value.detach().isfinite()).sum())
        raise ValueError(f"{name} must be finite, got {count} of {value.numel()} values that are NaN or infinite")


def check_label_values(labels: Tensor, num_classes: int, name: str = "labels") -> None:
    """Reads the labels: class indices in range, rows of probabilities that sum to 1.

    Args:
        labels: class indices (B,) or probabilities (B, K).
        num_classes: K.
        name: of the argument, for messages.

    Raises:
        ValueError: they are not.

    Example:
        >>> check_label_values(torch.tensor([0, 9]), 10)
    """
    if labels.numel() == 0:
        return
    if labels.ndim == 1:
        low, high = (int(value) for value in labels.long().aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name} must be in [0, {num_classes}), got {low if low < 0 else high}")
        return
    wide = labels.detach().to(torch.float32)
    tolerance = _HALF_TOLERANCE if labels.dtype in (torch.float16, torch.bfloat16) else _TOLERANCE
    least, most = (float(value) for value in wide.sum(1).aminmax())
    if not (abs(least - 1.0) <= tolerance and abs(most - 1.0) <= tolerance):
        wrong = most if abs(most - 1.0) > tolerance else least
        raise ValueError(f"{name} of probabilities must sum to 1 in each row, got a sum of {wrong:.4g}")
    if float(wide.amin()) < 0.0:
        raise ValueError(f"{name} of probabilities must be at least 0, got {float(wide.amin()):.4g}")


def _scalar(value: Any) -> Any:
    """The number in an array or tensor without dimensions; anything else as it is."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value[()]
    if isinstance(value, Tensor) and value.ndim == 0 and value.device.type == "cpu" and type(value) is Tensor:
        return value.item()
    return value


def _is_sequence(value: Any) -> bool:
    """A list, a tuple, or an array or tensor of one dimension: not a string."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _digits(number: int) -> str:
    """A whole number for a message; Python itself refuses to print one of thousands of digits."""
    return str(number) if abs(number) < 10**30 else f"a number of {number.bit_length()} bits"


def _shown(value: Any) -> str:
    """Kind and, where it is short, the value itself."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray | Tensor):
        return kind_of(value)
    text = repr(value)
    return f"{type(value).__name__}: {text}" if len(text) <= 60 else type(value).__name__


def _bounds(low: float, high: float) -> str:
    if low == -math.inf and high == math.inf:
        return "finite"
    if math.isinf(high):
        return "finite and above 0" if low == ABOVE_ZERO else f"finite and at least {low:g}"
    below = "below 1" if high == BELOW_ONE else f"at most {high:g}"
    if low == -math.inf:
        return below
    if low == ABOVE_ZERO:
        return f"above 0 and {below}"
    return f"at least {low:g} and {below}" if high == BELOW_ONE else f"from {low:g} to {high:g}"


def optional_import(module: str) -> ModuleType:
    """The module, or an ImportError that says what to install.

    Example:
        >>> optional_import("json").dumps(1)
        '1'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != library:
            raise  # the library is there, one of its own dependencies is not
        raise ModuleNotFoundError(
            f'this needs {library}, which is not installed: pip install "mixaug[train]"', name=error.name
        ) from error
