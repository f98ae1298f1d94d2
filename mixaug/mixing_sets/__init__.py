"""Pictures to mix into images: fractals and the bank that serves them.

Importing this package is cheap; numba is imported, and the fractals' kernels compiled, when the first picture is made.
"""

from mixaug.mixing_sets.bank import MixingSet
from mixaug.mixing_sets.fractals import FractalParams, make_fractals, render_fractals, sample_fractals
from mixaug.mixing_sets.richness import Richness, richness

__all__ = [
    "FractalParams",
    "MixingSet",
    "Richness",
    "make_fractals",
    "render_fractals",
    "richness",
    "sample_fractals",
]
