"""Evaluation of classifiers: clean and corrupted images, calibration, attacks, and the report of it all."""

from __future__ import annotations

from mixaug.evaluate.activation_map_figure import draw_activation_maps
from mixaug.evaluate.activation_maps import class_activation_maps
from mixaug.evaluate.capping import CapFigures, cap_figures, zero_gradient_share, zero_gradients
from mixaug.evaluate.comparison import Comparison, compare
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.lipschitz import local_lipschitz
from mixaug.evaluate.model import evaluate_model
from mixaug.evaluate.occlusion import OcclusionCurve, occlusion_curve
from mixaug.evaluate.report import Report
from mixaug.evaluate.results import AttackResult, LossRise
from mixaug.evaluate.surface import LossSurface, loss_surface
from mixaug.evaluate.transfer import Transfer, transfer

__all__ = [
    "AttackResult",
    "CapFigures",
    "Comparison",
    "Estimate",
    "LossRise",
    "LossSurface",
    "OcclusionCurve",
    "Report",
    "Transfer",
    "cap_figures",
    "class_activation_maps",
    "compare",
    "draw_activation_maps",
    "evaluate_model",
    "local_lipschitz",
    "loss_surface",
    "occlusion_curve",
    "transfer",
    "zero_gradient_share",
    "zero_gradients",
]
