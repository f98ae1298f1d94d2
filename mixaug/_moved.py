"""Modules of 0.1 that have moved: their old names still import, with a warning, for code and for pickled objects."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Where what a module held is now: those that a page of the documentation named, and those of records, settings,
#: networks and transforms, which may stand in somebody's pickles.
MOVED = {
    "mixaug.adautomix.draws": ("mixaug.adautomix.mixing",),
    "mixaug.evaluate.activation_maps": ("mixaug.evaluate.measures.activation_maps",),
    "mixaug.evaluate.anomaly": ("mixaug.evaluate.measures.anomaly",),
    "mixaug.evaluate.attack_presets": ("mixaug.evaluate.plan",),
    "mixaug.evaluate.audit.thresholds": ("mixaug.evaluate.audit.result",),
    "mixaug.evaluate.calibration": ("mixaug.evaluate.measures.calibration",),
    "mixaug.evaluate.capping": ("mixaug.nn.caps", "mixaug.evaluate.measures.zero_gradients"),
    "mixaug.evaluate.class_subsets": ("mixaug.evaluate.images",),
    "mixaug.evaluate.comparison": ("mixaug.evaluate.report.report",),
    "mixaug.evaluate.consistency": ("mixaug.evaluate.measures.consistency",),
    "mixaug.evaluate.corrupted_sets": ("mixaug.evaluate.corruptions.sets",),
    "mixaug.evaluate.features": ("mixaug.evaluate.measures.features",),
    "mixaug.evaluate.occlusion": ("mixaug.evaluate.measures.occlusion",),
    "mixaug.evaluate.occlusion_figure": ("mixaug.evaluate.measures.occlusion",),
    "mixaug.evaluate.outcomes": ("mixaug.evaluate.results", "mixaug.evaluate.measures.activation_maps"),
    "mixaug.evaluate.patches": ("mixaug.evaluate.measures.occlusion",),
    "mixaug.evaluate.perturbations": ("mixaug.evaluate.corruptions.perturbations",),
    "mixaug.evaluate.robustness": ("mixaug.evaluate.results",),
    "mixaug.evaluate.surface": ("mixaug.evaluate.measures.surface",),
    "mixaug.evaluate.transfer": ("mixaug.evaluate.measures.transfer",),
    "mixaug.mixing_sets._contour_params": ("mixaug.mixing_sets.contours",),
    "mixaug.mixing_sets._ifs_params": ("mixaug.mixing_sets.ifs.render",),
    "mixaug.mixing_sets._params": ("mixaug.mixing_sets.fractals.draws",),
    "mixaug.mixing_sets._picks": ("mixaug.mixing_sets.pictures",),
    "mixaug.mixing_sets._richness": ("mixaug.mixing_sets.richness",),
    "mixaug.mixing_sets._sources": ("mixaug.mixing_sets.sources",),
    "mixaug.mixing_sets._spectrum_params": ("mixaug.mixing_sets.spectrum",),
    "mixaug.train.adversary": ("mixaug.train.settings",),
    "mixaug.train.augment": ("mixaug.train.batches",),
    "mixaug.train.models": ("mixaug.models",),
    "mixaug.train.networks": ("mixaug.models.networks",),
    "mixaug.transforms.dynamic_mixcut_params": ("mixaug.transforms.dynamic_mixcut",),
    "mixaug.transforms.generated_mix": ("mixaug.adautomix.transform",),
    "mixaug.transforms.ipmix_params": ("mixaug.transforms.ipmix",),
}


class _MovedModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        for home in MOVED[self.__name__]:
            found = importlib.import_module(home)
            if hasattr(found, name):
                return getattr(found, name)
        raise AttributeError(f"module {self.__name__!r}, now {MOVED[self.__name__][0]!r}, has no attribute {name!r}")


class _MovedModules(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        homes = " and ".join(MOVED[module.__name__])
        warnings.warn(f"{module.__name__} has moved: import from {homes}", DeprecationWarning, stacklevel=2)


def serve_moved_modules() -> None:
    """Adds the old names, asked for after all others: an import of a module that there is takes no longer."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
