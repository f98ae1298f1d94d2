"""Pure image kernels: numbers in, pixels out. Nothing here draws at random or writes to its inputs."""

from mixaug.ops.image import image_operation
from mixaug.ops.ipmix import ipmix_torch, replay_ipmix
from mixaug.ops.mixing import mix

__all__ = ["image_operation", "ipmix_torch", "mix", "replay_ipmix"]
