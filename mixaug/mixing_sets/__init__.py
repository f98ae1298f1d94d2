"""Pictures to mix into images: fractals and the bank that serves them.

Importing this package is cheap; numba is imported, and the fractals' kernels compiled, when the first picture is made.
"""

from mixaug.mixing_sets._params import FractalParams
from mixaug.mixing_sets._richness import Richness, richness
from mixaug.mixing_sets.bank import MixingSet
from mixaug.mixing_sets.fractals import make_fractals, render_fractals, sample_fractals

__all__ = [
    "FractalParams",
    "MixingSet",
    "Richness",
    "make_fractals",
    "render_fractals",
    "richness",
    "sample_fractals",
]
