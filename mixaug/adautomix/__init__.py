"""AdAutoMix: mixtures that a generator learns to make, over the user's own classifier."""

from mixaug.adautomix.checkpoint import SavedGenerator, read_generator, save_generator
from mixaug.adautomix.draws import MixDraw, MixLaw, sample_mix
from mixaug.adautomix.mixer import AdAutoMix
from mixaug.adautomix.mixing import mix_images, mix_targets
from mixaug.adautomix.step import AdAutoMixOutput
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
