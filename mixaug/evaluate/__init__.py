"""Evaluation of classifiers: clean, corrupted and attacked images, calibration, the masking audit, and the report."""

from __future__ import annotations

from mixaug.evaluate.audit import Audit, Check, Thresholds, audit_model
from mixaug.evaluate.corruptions.sets import CorruptedSet, save_corrupted
from mixaug.evaluate.evaluation import evaluate_model
from mixaug.evaluate.images import ClassSubsetFolder, PictureFolder
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.journal import clear_state
from mixaug.evaluate.measures.activation_maps import class_activation_maps, draw_activation_maps
from mixaug.evaluate.measures.anomaly import AnomalyScores, anomaly
from mixaug.evaluate.measures.consistency import FlipRates, flip_rates
from mixaug.evaluate.measures.features import FeatureMap, feature_map
from mixaug.evaluate.measures.lipschitz import local_lipschitz
from mixaug.evaluate.measures.occlusion import OcclusionCurve, occlusion_curve
from mixaug.evaluate.measures.surface import LossRise, LossSurface, loss_surface
from mixaug.evaluate.measures.transfer import Transfer, transfer
from mixaug.evaluate.measures.zero_gradients import zero_gradient_share
from mixaug.evaluate.report.report import Comparison, Report, compare
from mixaug.evaluate.results import AttackResult, WorstCase
from mixaug.nn.caps import CapFigures, cap_figures, zero_gradients

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
