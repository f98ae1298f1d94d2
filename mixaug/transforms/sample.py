"""Where the images and the labels of a sample are: the one finder that every transform and collate function asks.

A sample is a tensor or picture alone, or a tuple, list or mapping (also a ``UserDict``, such as transformers'
``BatchFeature``, or a named tuple), nested at will. The rule, which is torchvision's wherever that is unambiguous:

*Images* are all ``tv_tensors.Image`` and ``Video`` (and PIL images). If there are none: the first plain tensor that can
be images by its dtype and shape, besides the labels and besides what is under a key that names something else (`OTHER`:
a mask, a depth map, an id, ...); one under a key that is one of `IMAGES` comes before the others, the outermost first.

*Labels* are the second entry of a tuple or list. In a mapping, in a second entry that is one, and in a named tuple,
they are under a key, in any case, that is (in this order) ``labels``, ``label``, ``targets`` or ``target``, or else
under the first that contains ``label`` and has something in it that labels can be.

What is found may be replaced by `replaced`, which makes the containers on the way anew and writes to nothing.
"""

from __future__ import annotations

import copy
import numbers
from collections import UserDict, deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors

from mixaug._checks import kind_of
from mixaug.transforms.images import DTYPES

__all__ = [
    "COLLATED",
    "IMAGES",
    "KINDS",
    "LABELS",
    "OTHER",
    "PICTURES",
    "Entry",
    "Found",
    "Getter",
    "Path",
    "as_labels",
    "check_fixed",
    "entries_of",
    "find_batch",
    "find_images",
    "find_item",
    "find_labels",
    "named_entries",
    "parse_getter",
    "replaced",
]

Getter = Callable[[Any], Any]
#: Keys and positions that lead to an entry.
Path = tuple[Any, ...]

#: torchvision's kinds of tensor that hold images.
KINDS = (tv_tensors.Image, tv_tensors.Video)
#: What the walk through a sample looks for.
PICTURES = (Tensor, PIL.Image.Image)
#: Keys (in any case) that name images.
IMAGES = ("image", "images", "img", "imgs", "pixel_values", "video", "videos")
#: Keys (in any case) that name labels, the first before the next.
LABELS = ("labels", "label", "targets", "target")
#: Ends of words of a key by which its entry is no image.
OTHER = (
    *LABELS, "mask", "masks", "segmentation", "segmentations", "depth", "depths", "disparity", "bbox", "bboxes",
    "keypoint", "keypoints", "landmark", "landmarks", "heatmap", "heatmaps",
)  # fmt: skip
# Too short to be looked for at the end of a longer word.
_OTHER_WORDS = frozenset(("id", "ids", "idx", "index", "indices", "box", "boxes", "seg", "flow"))
#: What helps against a sample where a batch is wanted.
COLLATED = ": mix after the batch is collated"
# Most entries that a message names.
_SHOWN = 6


class Entry(NamedTuple):
    """An entry of a sample: what it is, where, and the keys (lower case) that lead there."""

    path: Path
    value: Any
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As one writes it: ``sample['meta']['id']``."""
        return "sample" + "".join(f"[{key!r}]" for key in self.path)


class Found(NamedTuple):
    """The images and the labels of a sample."""

    images: list[Entry]
    labels: Entry


# ---------------------------------------------------------------- the walk, and the way back


def items_of(sample: Any) -> list[tuple[Any, str | None, Any]] | None:
    """Key, name and value of each entry of a container; None of anything else. A string is an entry, not a container.

    Example:
        >>> items_of({"Image": 1, 2: 3}), items_of([5]), items_of("text")
        ([('Image', 'image', 1), (2, None, 3)], [(0, None, 5)], None)
    """
    if isinstance(sample, Mapping):
        return [(key, key.lower() if isinstance(key, str) else None, value) for key, value in sample.items()]
    if isinstance(sample, (tuple, list, deque)) and not isinstance(sample, torch.Size):
        fields = getattr(sample, "_fields", None)
        if fields is not None:
            return [(i, fields[i].lower(), value) for i, value in enumerate(sample)]
        return [(i, None, value) for i, value in enumerate(sample)]
    return None


def entries_of(sample: Any, kinds: type | tuple[type, ...] = object) -> list[Entry]:
    """The entries of a sample of some kinds, in their order.

    Example:
        >>> [str(entry) for entry in entries_of({"meta": [{"id": 3}], "name": "a"}, int)]
        ["sample['meta'][0]['id']"]
    """
    entries: list[Entry] = []
    _collect(sample, kinds, (), (), entries)
    return entries


def _collect(sample: Any, kinds: Any, path: Path, names: tuple[str, ...], entries: list[Entry]) -> None:
    items = items_of(sample)
    if items is None:
        if isinstance(sample, kinds):
            entries.append(Entry(path, sample, names))
        return
    for key, name, value in items:
        _collect(value, kinds, (*path, key), names if name is None else (*names, name), entries)


def replaced(sample: Any, new: Mapping[Path, Any]) -> Any:
    """The sample with other entries in some places: the containers that lead there are made anew, as what they were.

    Args:
        sample: not written to.
        new: the entries by their paths.

    Raises:
        TypeError: a container that cannot be made anew.

    Example:
        >>> sample = {"image": 1, "meta": (2, 3)}
        >>> replaced(sample, {("meta", 0): "two"}), sample
        ({'image': 1, 'meta': ('two', 3)}, {'image': 1, 'meta': (2, 3)})
    """
    if not new or () in new:
        return new.get((), sample)
    inside: dict[Any, dict[Path, Any]] = {}
    for path, value in new.items():
        inside.setdefault(path[0], {})[path[1:]] = value
    return _with(sample, {key: replaced(sample[key], entries) for key, entries in inside.items()})


def _with(container: Any, new: dict[Any, Any]) -> Any:
    """A container like another, with some entries of its own."""
    kind: Any = type(container)
    if isinstance(container, tuple):
        values = [new.get(i, value) for i, value in enumerate(container)]
        if kind is tuple:
            return tuple(values)
        return kind._make(values) if hasattr(kind, "_make") else kind(values)
    if kind is MappingProxyType:
        return MappingProxyType({**container, **new})
    if kind is dict:
        return {**container, **new}
    own = isinstance(container, Mapping) and not isinstance(container, (dict, UserDict))
    made = container if own else copy.copy(container)
    # A copy of a mapping that we know nothing of might share its store with the original, a frozen one is its own copy,
    # and the attributes of one whose entries they are would stay the old ones.
    mirrored = isinstance(container, Mapping) and getattr(container, "__dict__", None) is container
    if mirrored or made is container:
        wanted: dict[Any, Any] = {**container, **new}
        try:
            made = kind(wanted)
            same = dict(made).keys() == wanted.keys() and all(made[key] is value for key, value in new.items())
        except Exception as error:
            raise TypeError(f"sample must be of tuples, lists and dicts, got a {kind.__name__}: {error}") from error
        if not same:
            raise TypeError(
                f"sample must be of tuples, lists and dicts, got a {kind.__name__} that changes its entries"
            )
        return made
    for key, value in new.items():
        made[key] = value
    return made


# ---------------------------------------------------------------- labels


def find_labels(sample: Any, getter: Getter | None = None) -> Entry:
    """The labels of a sample by the rule of this module, or those that the user's function returns.

    Args:
        sample: a batch as the loader gives it.
        getter: of :func:`parse_getter`.

    Raises:
        TypeError: the getter returned something that labels cannot be.
        ValueError: there is no such entry.

    Example:
        >>> entry = find_labels({"image": torch.rand(2, 3, 8, 8), "is_labelled": [1, 0], "Label": torch.tensor([4, 2])})
        >>> str(entry), entry.value
        ("sample['Label']", tensor([4, 2]))
    """
    if getter is not None:
        labels = getter(sample)
        path = _place(sample, labels)
        if path is None:
            if isinstance(labels, (Tensor, np.ndarray, list, tuple)):
                kind = "tensor" if isinstance(labels, Tensor) else type(labels).__name__
                raise ValueError(f"labels_getter must return an entry of the sample, got another {kind}")
            raise TypeError(_no_labels(labels))
        return Entry(path, labels)
    items = items_of(sample)
    if items is None:
        kind = "a tensor" if isinstance(sample, Tensor) else kind_of(sample)
        raise ValueError(f"labels must be given with the images, as (images, labels), got {kind} alone")
    if isinstance(sample, Mapping):
        return _labels_under(sample, ())
    if hasattr(sample, "_fields") and (entry := _named(items, ())) is not None:
        return entry
    if len(items) < 2:
        raise ValueError(
            f"labels must be the second entry of the sample, got a {type(sample).__name__} of {len(items)}"
        )
    second = items[1][2]
    if isinstance(second, Mapping):
        return _labels_under(second, (1,))
    plain = isinstance(second, Tensor) and not isinstance(second, tv_tensors.TVTensor)
    if plain or isinstance(second, (np.ndarray, list, tuple)):
        return Entry((1,), second)
    raise ValueError(
        "labels must be the second entry of a tuple, or under a key of a mapping (other places: labels_getter), got "
        f"{type(second).__name__}{_hint(second)}"
    )


def _labels_under(sample: Mapping[Any, Any], path: Path) -> Entry:
    entry = _named(items_of(sample) or [], path)
    if entry is None:
        raise ValueError(
            f"labels must be under a key that is {', '.join(LABELS[:-1])} or {LABELS[-1]} or has 'label' in it, got "
            f"the keys {list(sample)}{f' in {Entry(path, sample)}' if path else ''}; or labels_getter"
        )
    return entry


def _named(
    items: list[tuple[Any, str | None, Any]], path: Path, can_be: Callable[[Any], bool] | None = None
) -> Entry | None:
    """The entry whose name says that it is the labels, of the entries of one container."""
    can_be = can_be or _may_be_labels
    exact = [item for wanted in LABELS for item in items if item[1] == wanted and item[2] is not None]
    containing = [item for item in items if item[1] is not None and "label" in item[1] and item not in exact]
    # 'target' may be another image, and 'label_name' a list of words: only what labels can be counts there.
    sure = [item for item in exact if item[1] in ("labels", "label")]
    likely = [item for item in (*exact, *containing) if can_be(item[2])]
    for key, _, value in (*sure, *likely, *exact, *containing):
        if isinstance(value, Mapping):
            within = _named(items_of(value) or [], (*path, key), can_be)
            if within is not None:
                return within
        return Entry((*path, key), value)
    return None


def find_item(sample: Mapping[Any, Any]) -> tuple[Any, Any]:
    """Image and label of a mapping that a data set gives, by the same keys: one item, or a batch, not yet a tensor.

    An item holds numbers, arrays and lists of pictures where a batch has tensors, so the kinds tell less here: without
    a key of `IMAGES`, its only picture or array of three or four dimensions is meant.

    Raises:
        KeyError: with ``"image"`` or ``"label"``: there is none, or several are as likely.

    Example:
        >>> import PIL.Image
        >>> picture = PIL.Image.new("L", (8, 8))
        >>> find_item({"mask": picture, "jpg": picture, "label_name": "cat", "label": 3}) == (picture, 3)
        True
    """
    items = items_of(sample) or []
    label = _named(items, (), _may_be_label)
    entries = [Entry((key,), value, () if name is None else (name,)) for key, name, value in items]
    rest = [entry for entry in entries if label is None or entry.path != label.path[:1]]
    meant = [entry for wanted in IMAGES for entry in rest if entry.names == (wanted,)][:1]
    meant = meant or [entry for entry in rest if _may_be_picture(entry.value) and not _is_other(entry)]
    if len(meant) != 1:
        raise KeyError("image")
    if label is None:
        raise KeyError("label")
    return meant[0].value, label.value


def _may_be_label(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        return True
    return isinstance(value, numbers.Number) or _may_be_labels(value)


def _may_be_picture(value: Any) -> bool:
    if isinstance(value, (list, tuple)) and value:
        return _may_be_picture(value[0])
    return isinstance(value, PIL.Image.Image) or (isinstance(value, (Tensor, np.ndarray)) and value.ndim in (3, 4))


def _may_be_labels(value: Any) -> bool:
    """Whether something has the dtype and shape of labels; of a list its first entry tells. Reads no tensor."""
    if isinstance(value, Mapping):
        return _named(items_of(value) or [], ()) is not None
    if isinstance(value, tv_tensors.TVTensor):
        return False
    if isinstance(value, Tensor):
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
        return (value.ndim == 1 and whole) or (value.ndim == 2 and (whole or value.is_floating_point()))
    if isinstance(value, np.ndarray):
        return (value.ndim == 1 and value.dtype.kind in "iu") or (value.ndim == 2 and value.dtype.kind in "iuf")
    if isinstance(value, (list, tuple)) and value:
        first = value[0]
        if isinstance(first, Tensor):
            return first.ndim == 0
        return isinstance(first, (numbers.Number, list, tuple, np.ndarray)) and not isinstance(first, bool)
    return False


def as_labels(value: Any, device: torch.device | None = None) -> Tensor:
    """Labels as a tensor: one stays as it is; lists, tuples and NumPy arrays of numbers are copied to the device.

    Args:
        value: class indices or rows of probabilities.
        device: of the images; None: the CPU.

    Raises:
        TypeError: no numbers.
        ValueError: rows of different lengths, or numbers that no dtype of torch holds.

    Example:
        >>> as_labels([3, 1]), as_labels(((0.5, 0.5),)).dtype
        (tensor([3, 1]), torch.float64)
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (np.ndarray, list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        raise TypeError(_no_labels(value))
    if isinstance(value, (list, tuple)):
        tensors = [entry for entry in value if isinstance(entry, Tensor)]
        if tensors:
            if len(tensors) == len(value) and all(entry.ndim == 0 for entry in tensors):
                return torch.stack(tensors).to(device)
            raise TypeError(
                f"labels must be a tensor, got a {type(value).__name__} of tensors of shape {tuple(tensors[0].shape)} "
                "(what default_collate makes of lists of numbers): make each label a tensor, or stack them"
            )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"labels must be rows of one length, got a {type(value).__name__}: {error}") from error
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.int64)
    mixed = isinstance(value, (list, tuple)) and array.ndim == 1 and array.dtype.kind in "iuf"
    odd = next((x for x in value if isinstance(x, bool | np.bool_)), None) if mixed else None
    if array.dtype.kind not in "iuf" or odd is not None:
        raise TypeError(f"labels must be class indices or probabilities, got {_contents(value, array, odd)}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"labels must be whole numbers below 2^63, got {int(array.max())}")
    whole = array.dtype.kind in "iu"
    # Copied: an array may be read-only or of another byte order.
    dtype = np.int64 if whole else np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(array.astype(dtype)).to(device)


def _contents(value: Any, array: np.ndarray[Any, Any], odd: Any) -> str:
    """What a list or array holds, for a message."""
    if isinstance(value, np.ndarray):
        return kind_of(value)
    first = odd if odd is not None else array.flat[0]
    if array.dtype.kind == "O":
        first = next((x for x in array.flat if not isinstance(x, numbers.Number)), first)
    kind = {"U": "str", "S": "bytes"}.get(array.dtype.kind, type(first).__name__.rstrip("_"))
    hint = "; map the names to indices" if kind == "str" else ""
    return f"a {type(value).__name__} with {kind} in it{hint}"


def _no_labels(value: Any) -> str:
    return f"labels must be a tensor, got {type(value).__name__}{_hint(value)}"


def _hint(value: Any) -> str:
    """A number is the label of one image."""
    alone = isinstance(value, numbers.Number) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return COLLATED if alone else ""


# ---------------------------------------------------------------- images


def find_images(
    sample: Any,
    entries: Sequence[Entry],
    getter: Getter | None,
    can_be: Callable[[Tensor], bool],
    wanted: str,
    labels: Entry | None = None,
) -> list[Entry]:
    """The images of a sample by the rule of this module, or those that the user's function returns.

    Args:
        sample: a batch, or one image with what belongs to it.
        entries: its tensors and pictures, of :func:`entries_of`.
        getter: of :func:`parse_getter`.
        can_be: whether a plain tensor can be images, by its dtype and shape.
        wanted: what images are, for the message when there are none.
        labels: what the labels are, if there are any.

    Raises:
        TypeError: there are none, or the getter returned something else.
        ValueError: the getter returned no entry of the sample, or the labels.

    Example:
        >>> sample = {"id": torch.arange(2), "mask": torch.rand(2, 1, 8, 8), "photo": torch.rand(2, 3, 8, 8)}
        >>> found = find_images(sample, entries_of(sample, PICTURES), None, lambda x: x.ndim == 4, "a tensor")
        >>> [str(entry) for entry in found]
        ["sample['photo']"]
    """
    if getter is not None:
        return _from_getter(sample, getter(sample), labels)
    entries = [entry for entry in entries if labels is None or entry.path != labels.path]
    explicit = [entry for entry in entries if isinstance(entry.value, (*KINDS, PIL.Image.Image))]
    if explicit:
        return explicit
    plain = [entry for entry in entries if not (isinstance(entry.value, tv_tensors.TVTensor) or _is_other(entry))]
    fitting = [entry for entry in plain if can_be(entry.value)]
    named = [entry for entry in fitting if _is_named(entry)]
    if named:
        return [min(named, key=_depth)]
    if fitting:
        return fitting[:1]
    # One that is named so, or the only one that has the dimensions of images, is meant: its own check tells what is
    # wrong with it.
    meant = [e for e in plain if _is_named(e)] or [e for e in plain if e.value.ndim > 2] or plain
    if len(meant) == 1:
        return meant
    raise TypeError(f"images must be {wanted}, got {_listing(sample, labels)}")


def _from_getter(sample: Any, got: Any, labels: Entry | None) -> list[Entry]:
    values = list(got) if isinstance(got, (tuple, list)) else [got]
    if not values:
        raise ValueError("images_getter must return at least one entry of the sample, got none")
    found = []
    for value in values:
        path = _place(sample, value)
        if path is None:
            raise ValueError(f"images_getter must return entries of the sample, got another object: {kind_of(value)}")
        if labels is not None and path == labels.path:
            raise ValueError(f"images_getter must not return the labels, got {labels}")
        found.append(Entry(path, value))
    return found


def _is_other(entry: Entry) -> bool:
    """Whether a key on the way names something that is no image."""
    for name in entry.names:
        for word in name.replace("-", "_").replace(" ", "_").split("_"):
            if word in _OTHER_WORDS or word.endswith(OTHER):
                return True
    return False


def _is_named(entry: Entry) -> bool:
    return any(name in IMAGES for name in entry.names)


def _depth(entry: Entry) -> int:
    return len(entry.path)


def _listing(sample: Any, labels: Entry | None) -> str:
    """What is in a sample without images, for a message."""
    if items_of(sample) is None:
        return kind_of(sample)
    entries = [e for e in entries_of(sample) if labels is None or e.path[: len(labels.path)] != labels.path]
    shown = [f"{entry}: {kind_of(entry.value)}" for entry in entries[:_SHOWN]] or ["an empty sample"]
    if labels is not None and not entries:
        shown = ["nothing"]
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    taken = f" beside the labels {labels}" if labels is not None else ""
    return f"{', '.join(shown)}{more}{taken}; others: images_getter"


# ---------------------------------------------------------------- both


def find_batch(who: str, sample: Any, images_getter: Getter | None, labels_getter: Getter | None) -> Found:
    """The images and labels of a batch; labels as a tensor, on the images' device where they were none.

    Args:
        who: mixes them, for messages.
        sample: a batch as the loader gives it.
        images_getter, labels_getter: of :func:`parse_getter`.

    Raises:
        TypeError: labels of another kind; no images.
        ValueError: labels or images are not found.

    Example:
        >>> found = find_batch("MixUp", (torch.rand(2, 3, 8, 8), [4, 2]), None, None)
        >>> str(found.images[0]), str(found.labels), found.labels.value
        ('sample[0]', 'sample[1]', tensor([4, 2]))
    """
    if type(sample) in (tuple, list) and len(sample) == 2 and images_getter is None and labels_getter is None:
        first, second = sample  # the usual case, without a walk
        if type(first) is Tensor and type(second) is Tensor and can_be_batch(first):
            return Found([Entry((0,), first)], Entry((1,), second))
    entries = entries_of(sample, PICTURES)
    check_fixed(entries, f"{who} mixes images", "; leave it out")
    if images_getter is None and any(isinstance(entry.value, PIL.Image.Image) for entry in entries):
        raise TypeError(f"images must be a batch of tensors, got a PIL image{COLLATED}")
    labels = find_labels(sample, labels_getter)
    wanted = "a tensor of shape (B, C, H, W) in the sample"
    images = find_images(sample, entries, images_getter, can_be_batch, wanted, labels)
    if isinstance(labels.value, Tensor):
        return Found(images, labels)
    try:
        tensor = as_labels(labels.value, getattr(images[0].value, "device", None))
    except (TypeError, ValueError) as error:
        raise named_entries(error, sample, images, labels) from error
    return Found(images, Entry(labels.path, tensor))


def can_be_batch(value: Tensor) -> bool:
    """Whether a plain tensor has the dtype and the dimensions of a batch of images or clips."""
    return value.dtype in DTYPES and value.ndim in (4, 5)


def check_fixed(entries: Sequence[Entry], who: str, cure: str) -> None:
    """Raises TypeError at boxes, masks or key points of torchvision, which belong to images that are changed."""
    for entry in entries:
        if isinstance(entry.value, tv_tensors.TVTensor) and not isinstance(entry.value, KINDS):
            raise TypeError(f"{who} but not their {type(entry.value).__name__} ({entry}){cure}")


def named_entries(error: Exception, sample: Any, images: Sequence[Entry], labels: Entry | None = None) -> Exception:
    """An error of a check, with what was taken for images and labels; nothing is added to ``(images, labels)``.

    Example:
        >>> found = [Entry(("x", 0), None)]
        >>> named_entries(ValueError("images must be ..., got 2"), {"x": [0]}, found)
        ValueError("images must be ..., got 2; images are sample['x'][0]")
    """
    plain = not isinstance(sample, Mapping) and (labels is None or labels.path == (1,))
    if plain and [entry.path for entry in images] in ([], [()], [(0,)]):
        return error
    told = [f"images are {', '.join(map(str, images))}"] if images else []
    told += [] if labels is None else [f"labels are {labels}"]
    return type(error)(f"{error}; {', '.join(told)}")


def _place(sample: Any, value: Any, path: Path = ()) -> Path | None:
    """Where an object is in a sample, as an entry or as a container of entries."""
    if sample is value:
        return path
    for key, _, inside in items_of(sample) or ():
        found = _place(inside, value, (*path, key))
        if found is not None:
            return found
    return None


def parse_getter(name: str, getter: Any) -> Getter | None:
    """A getter argument as a function of the sample; None for ``"default"``, the rule of this module.

    Args:
        name: of the argument, for messages.
        getter: what was given.

    Raises:
        TypeError: neither.

    Example:
        >>> parse_getter("labels_getter", "default") is None, parse_getter("labels_getter", len) is len
        (True, True)
    """
    if isinstance(getter, str) and getter == "default":
        return None
    if not callable(getter):
        raise TypeError(f"{name} must be 'default' or a function of the sample, got {getter!r}")
    return getter  # type: ignore[no-any-return]
