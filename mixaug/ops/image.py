"""One image-level operation per image of a batch, on 8-bit images."""

from __future__ import annotations

import torch
from torch import Tensor

from mixaug._checks import check_tensor
from mixaug.ops._select import update
from mixaug.ops.color import color, contrast, histogram_based, pointwise, sharpness
from mixaug.ops.ipmix_record import OP
from mixaug.ops.warp import affine_matrix, warp


def image_operation(images: Tensor, op: Tensor, level: Tensor, sign: Tensor, *, all_ops: bool = True) -> Tensor:
    """Applies to each image its own image-level operation (PIL's semantics on bytes).

    Args:
        images: ``(n, C, H, W)`` uint8, C 1 or 3. Not written.
        op: ``(n,)`` int64, position in ``OPERATIONS``, each one of ``IMAGE_OPERATIONS``.
        level: ``(n,)`` float32, strength ``L`` in ``(0, 10]``.
        sign: ``(n,)`` int64, -1 or 1, direction of geometric operations.
        all_ops: False skips the five operations that only ``all_ops`` draws (saves work on a GPU, where every
            operation is computed for every image).

    Returns:
        ``(n, C, H, W)`` uint8.

    Example:
        >>> black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> one = torch.ones(1)
        >>> image_operation(black, torch.tensor([OP["invert"]]), one, one.long()).unique().item()
        255
    """
    check_tensor("images", images, 4)
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    for name, value, floating in (("op", op, False), ("level", level, True), ("sign", sign, False)):
        if check_tensor(name, value, 1, floating=floating).shape != images.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(images)},), one for each image, got {tuple(value.shape)}")
        if value.device != images.device:
            raise ValueError(f"{name} must be on the images' device {images.device}, got {value.device}")

    def among(*names: str) -> Tensor:
        mask = op == OP[names[0]]
        for name in names[1:]:
            mask = mask | (op == OP[name])
        return mask

    def warped(x: Tensor, op: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        return warp(x, affine_matrix(op, level, sign, (x.shape[-2], x.shape[-1])))

    geometric = ("mirror", "rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    out = update(images, among(*geometric), warped, op, level, sign)
    # Each image has one operation, so no group sees what another group wrote.
    out = update(out, among("posterize", "solarize", "invert", "brightness"), pointwise, op, level)
    out = update(out, among("equalize", "autocontrast"), histogram_based, op, level)
    if all_ops:
        out = update(out, among("contrast"), contrast, level)
        out = update(out, among("color"), color, level)
        out = update(out, among("sharpness"), sharpness, level)
    return out
