"""The masking audit: is a model's robustness real, or do its gradients hide the way?"""

from mixaug.evaluate.audit.result import Audit, Check, Thresholds
from mixaug.evaluate.audit.run import audit_images, audit_model, audit_pieces

__all__ = ["Audit", "Check", "Thresholds", "audit_images", "audit_model", "audit_pieces"]
