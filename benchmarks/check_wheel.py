"""Checks an installed wheel from outside of the repository: the compiled kernels are there, load, and are used.

python benchmarks/check_wheel.py
"""

from __future__ import annotations

import sys
import time
import warnings

import torch


def main() -> int:
    warnings.simplefilter("error")  # a missing kernel is said by a warning
    start = time.perf_counter()
    import mixaug
    import mixaug_ext

    if mixaug_ext.library() is None:
        sys.stderr.write(f"the compiled kernels are not in use: {mixaug_ext.why_not()}\n")
        return 1
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    mixed = mixaug.IPMix()(images)
    both, targets = mixaug.DynamicMixCut(num_classes=10)(images, torch.arange(8))
    if mixed.shape != images.shape or both.shape != images.shape or targets.shape != (8, 10):
        sys.stderr.write("the transforms gave other shapes\n")
        return 1
    seconds = time.perf_counter() - start
    sys.stdout.write(f"mixaug {mixaug.__version__} in {mixaug_ext.__file__}: {mixaug_ext.isa()}, {seconds:.2f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
