"""Adversaries: images in [0, 1] in, adversarial images in [0, 1] out.

Each is a frozen record of its settings, called as ``attack(model, images, labels)``. Wherever this package wants an
attack, any callable of that form will do.
"""

from mixaug.attacks.apgd import APGD
from mixaug.attacks.autoattack import AutoAttack
from mixaug.attacks.cw_l2 import CWL2
from mixaug.attacks.feature_scatter import FeatureScatter
from mixaug.attacks.kl_pgd import KLPGD
from mixaug.attacks.objectives import cross_entropy, dlr, kl, margin
from mixaug.attacks.pgd import FGSM, PGD, CWLinf
from mixaug.attacks.spsa import SPSA
from mixaug.attacks.square import Square
from mixaug.attacks.views import two_views

__all__ = [
    "APGD",
    "CWL2",
    "FGSM",
    "KLPGD",
    "PGD",
    "SPSA",
    "AutoAttack",
    "CWLinf",
    "FeatureScatter",
    "Square",
    "cross_entropy",
    "dlr",
    "kl",
    "margin",
    "two_views",
]
