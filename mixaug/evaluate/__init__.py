"""Evaluation of classifiers: clean and corrupted images, calibration, attacks, and the report of it all."""

from __future__ import annotations

from mixaug.evaluate.comparison import Comparison, compare
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.model import evaluate_model
from mixaug.evaluate.report import AttackResult, Report

__all__ = ["AttackResult", "Comparison", "Estimate", "Report", "compare", "evaluate_model"]
