"""What a torchvision pipeline uses."""

from mixaug.transforms.ipmix import IPMix

__all__ = ["IPMix"]
