"""Evaluation of classifiers: clean, corrupted and attacked images, calibration, the masking audit, and the report."""

from __future__ import annotations

from mixaug.evaluate._journal import clear_state
from mixaug.evaluate.activation_map_figure import draw_activation_maps
from mixaug.evaluate.activation_maps import class_activation_maps
from mixaug.evaluate.anomaly import AnomalyScores, anomaly
from mixaug.evaluate.audit import Audit, Check, Thresholds, audit_model
from mixaug.evaluate.capping import CapFigures, cap_figures, zero_gradient_share, zero_gradients
from mixaug.evaluate.class_subsets import ClassSubsetFolder, PictureFolder
from mixaug.evaluate.comparison import Comparison, compare
from mixaug.evaluate.consistency import FlipRates, flip_rates
from mixaug.evaluate.corrupted_sets import CorruptedSet, save_corrupted
from mixaug.evaluate.features import FeatureMap, feature_map
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.lipschitz import local_lipschitz
from mixaug.evaluate.model import evaluate_model
from mixaug.evaluate.occlusion import OcclusionCurve, occlusion_curve
from mixaug.evaluate.report import Report
from mixaug.evaluate.results import AttackResult, LossRise
from mixaug.evaluate.robustness import WorstCase
from mixaug.evaluate.surface import LossSurface, loss_surface
from mixaug.evaluate.transfer import Transfer, transfer

__all__ = [
    "AnomalyScores",
    "AttackResult",
    "Audit",
    "CapFigures",
    "Check",
    "ClassSubsetFolder",
    "Comparison",
    "CorruptedSet",
    "Estimate",
    "FeatureMap",
    "FlipRates",
    "LossRise",
    "LossSurface",
    "OcclusionCurve",
    "PictureFolder",
    "Report",
    "Thresholds",
    "Transfer",
    "WorstCase",
    "anomaly",
    "audit_model",
    "cap_figures",
    "class_activation_maps",
    "clear_state",
    "compare",
    "draw_activation_maps",
    "evaluate_model",
    "feature_map",
    "flip_rates",
    "local_lipschitz",
    "loss_surface",
    "occlusion_curve",
    "save_corrupted",
    "transfer",
    "zero_gradient_share",
    "zero_gradients",
]
