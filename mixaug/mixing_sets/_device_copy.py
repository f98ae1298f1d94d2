"""A ring's pictures on another device, brought up to date a little at a call."""

from __future__ import annotations

import numpy as np
import torch

from mixaug.mixing_sets._ring import Ring

_BYTES = 1 << 20  # copied in one call: about 0.1 ms over PCIe, and 50 pictures of 256 px a second at 10 steps a second


class DeviceCopy:
    """The pictures of ``ring`` on ``device``; uploaded whole when it is made.

    Args:
        ring: of the stream.
        device: where the copy lives.
    """

    def __init__(self, ring: Ring, device: torch.device) -> None:
        self._ring, self._device = ring, device
        self._stamps = ring.stamps.copy()  # before the pictures: what is replaced meanwhile is copied again later
        self.pictures = ring.pictures.to(device, copy=True)
        self._most = max(1, _BYTES // ring.pictures[0].numel())

    def refresh(self) -> None:
        """Copies slots that changed, the oldest first, at most 1 MiB; those being replaced wait for the next call."""
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # a replay of the graph would copy the same pictures again and again
        stamps = self._ring.stamps.copy()
        changed = np.flatnonzero((stamps != self._stamps) & (stamps >= 0))
        if not len(changed):
            return
        slots = changed[np.argsort(stamps[changed])[: self._most]]
        pictures, stamps = self._ring.read(slots)
        whole = stamps >= 0
        slots, pictures = slots[whole], pictures[torch.from_numpy(whole)]
        self._stamps[slots] = stamps[whole]
        self.pictures.index_copy_(0, self._upload(torch.from_numpy(slots)), self._upload(pictures))

    def _upload(self, values: torch.Tensor) -> torch.Tensor:
        """From pinned memory, so that the host does not wait for the device."""
        if self._device.type == "cuda":
            return values.pin_memory().to(self._device, non_blocking=True)
        return values.to(self._device)
