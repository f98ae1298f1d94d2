"""Adversaries: images in [0, 1] in, adversarial images in [0, 1] out."""

from mixaug.attacks.pgd import PGD

__all__ = ["PGD"]
