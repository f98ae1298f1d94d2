"""Pictures to mix into images: synthetic sources and the bank that serves them.

Importing this package is cheap; numba is imported, and a source's kernels compiled, when its first picture is made.
"""

from mixaug.mixing_sets.bank import MixingSet
from mixaug.mixing_sets.contours import ContourParams, render_contours, sample_contours
from mixaug.mixing_sets.dead_leaves import DeadLeavesParams, render_dead_leaves, sample_dead_leaves
from mixaug.mixing_sets.fractals import render_fractals, sample_fractals
from mixaug.mixing_sets.fractals.draws import FractalParams
from mixaug.mixing_sets.ifs import render_ifs, sample_ifs
from mixaug.mixing_sets.ifs.render import IFSParams
from mixaug.mixing_sets.pictures import PickParams, crop_pictures, sample_picks
from mixaug.mixing_sets.richness import Richness, richness, spectral_slope
from mixaug.mixing_sets.sources import SOURCES, iter_pictures, make_pictures
from mixaug.mixing_sets.spectrum import SpectrumParams, render_spectrum, sample_spectrum
from mixaug.mixing_sets.streaming import StreamingSet

__all__ = [
    "SOURCES",
    "ContourParams",
    "DeadLeavesParams",
    "FractalParams",
    "IFSParams",
    "MixingSet",
    "PickParams",
    "Richness",
    "SpectrumParams",
    "StreamingSet",
    "crop_pictures",
    "iter_pictures",
    "make_pictures",
    "render_contours",
    "render_dead_leaves",
    "render_fractals",
    "render_ifs",
    "render_spectrum",
    "richness",
    "sample_contours",
    "sample_dead_leaves",
    "sample_fractals",
    "sample_ifs",
    "sample_picks",
    "sample_spectrum",
    "spectral_slope",
]
