"""The record of what determines a statistical picture."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

KINDS = ("spectrum", "spectrum-colours", "wavelet", "wavelet-colours")
STEPS = 6


@dataclass(frozen=True)
class SpectrumParams:
    """Everything that determines N statistical pictures: a record that can be saved, replayed and shown.

    Args:
        kind: (N,) int64, index into ``KINDS``: random phases or wavelets; with ``colours``, in areas of few colours.
        key: (N,) int64, what phases or wavelets are expanded from by a hash.
        slopes: (N, 2) float64, the exponents a and b of ``1 / (|fx|^a + |fy|^b)`` (spectrum), or twice the
            exponent a of 1 / f^a (wavelet).
        axis: (N, 2) float64 unit, the direction of fx in the picture, or the one that wavelets favour.
        tail: (N,) float64, spread of the logarithm of the wavelets' sizes: 0 gives Gaussian sub-bands.
        strain: (N,) float64, 0 to 1: how much the wavelets favour the axis.
        mean: (N, 3) float64, RGB in [0, 255].
        mixing: (N, 3, 3) float64, grey levels that a standard deviation of each field adds to R, G and B.
        ramp: (N, 3) float64, steps: (N, 3, 6, 3) float64: the curve through which each field is seen, in the kinds
            with ``colours``: slope, and middle, width and height of its soft steps.
        attempt: (N,) int64, how many draws were refused before this one.
    """

    kind: torch.Tensor
    key: torch.Tensor
    slopes: torch.Tensor
    axis: torch.Tensor
    tail: torch.Tensor
    strain: torch.Tensor
    mean: torch.Tensor
    mixing: torch.Tensor
    ramp: torch.Tensor
    steps: torch.Tensor
    attempt: torch.Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | torch.Tensor | list[int]) -> SpectrumParams:
        """The record of some pictures (a slice, a mask or a list of rows)."""
        return SpectrumParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})
