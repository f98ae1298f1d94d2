"""Pictures to mix into images: synthetic sources and the bank that serves them.

Importing this package is cheap; numba is imported, and a source's kernels compiled, when its first picture is made.
"""

from mixaug.mixing_sets._params import FractalParams
from mixaug.mixing_sets._picks import PickParams, crop_pictures, sample_picks
from mixaug.mixing_sets._richness import Richness, richness
from mixaug.mixing_sets._sources import SOURCES, iter_pictures, make_pictures
from mixaug.mixing_sets.bank import MixingSet
from mixaug.mixing_sets.fractals import render_fractals, sample_fractals

__all__ = [
    "SOURCES",
    "FractalParams",
    "MixingSet",
    "PickParams",
    "Richness",
    "crop_pictures",
    "iter_pictures",
    "make_pictures",
    "render_fractals",
    "richness",
    "sample_fractals",
    "sample_picks",
]
