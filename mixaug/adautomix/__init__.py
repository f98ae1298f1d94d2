"""AdAutoMix: mixtures that a generator learns to make, over the user's own classifier."""

from mixaug.adautomix.checkpoint import SavedGenerator, read_generator, save_generator
from mixaug.adautomix.mixer import AdAutoMix, AdAutoMixOutput
from mixaug.adautomix.mixing import MixDraw, MixLaw, mix_images, mix_targets, sample_mix
from mixaug.adautomix.teacher import momentum_at

__all__ = [
    "AdAutoMix",
    "AdAutoMixOutput",
    "MixDraw",
    "MixLaw",
    "SavedGenerator",
    "mix_images",
    "mix_targets",
    "momentum_at",
    "read_generator",
    "sample_mix",
    "save_generator",
]
