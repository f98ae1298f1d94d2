"""Runs in a process with a sanitizer's library: hostile records through the public replay, then past its checks.

python records_script.py LIBRARY
"""

from __future__ import annotations

import ctypes
import sys

import torch
from records_parts import FLOAT_EDGES, INT_EDGES, hostile, ipmix_record, pictures, replaced

import mixaug_ext
from mixaug import DynamicMixCut
from mixaug.ops.ipmix import _empty_rows, _record_of
from mixaug_ext import _ipmix


def through_replay() -> int:
    count = 0
    ipmix, images, params = ipmix_record()
    mix, labels = DynamicMixCut(10), torch.arange(2)
    mixcut = mix.sample(images)
    runs = [(params, lambda p: ipmix.replay(images, p)), (mixcut, lambda p: mix.replay(images, labels, p))]
    for record, replay in runs:
        for field in record.tensors():
            for value in hostile(getattr(record, field)):
                count += 1
                try:
                    replay(replaced(record, **{field: value}))
                except (TypeError, ValueError) as error:
                    assert field in str(error), error
    return count


def past_the_checks() -> tuple[int, int]:
    """The values themselves, in the right dtype and shape, straight to the kernel: done or refused."""
    count = refused = 0
    _, images, params = ipmix_record()
    bank, right = pictures().resized(params.side), _record_of(params, torch.float32)
    for field, value in right.items():
        for edge in FLOAT_EDGES if value.is_floating_point() else INT_EDGES:
            for last in (False, True):
                wrong = value.clone() if last else torch.full_like(value, edge)
                wrong.view(-1)[-1] = edge
                count += 1
                out = _empty_rows(images, 1)
                try:
                    settings = {"side": params.side, "mixed_input": False, "threads": 1}
                    _ipmix.ipmix(images, out, bank, right | {field: wrong}, **settings)
                except ValueError:
                    refused += 1
    for side in (0, 1, 15, 17, 10**6, 2**62, -1):
        try:
            _ipmix.ipmix(images, _empty_rows(images, 1), bank, right, side=side, mixed_input=False, threads=1)
        except (ValueError, MemoryError):
            refused += 1
        count += 1
    return count, refused


if __name__ == "__main__":
    library = ctypes.CDLL(sys.argv[1])
    assert library.mixaug_abi() == mixaug_ext.ABI
    mixaug_ext._load = lambda: (library, "")
    assert mixaug_ext.library() is library
    torch.set_num_threads(1)
    print(f"{through_replay()} hostile records through replay")
    count, refused = past_the_checks()
    print(f"{count} straight to the kernel, {refused} refused")
