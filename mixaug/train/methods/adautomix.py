"""The method adautomix: two players, two optimisers, a teacher; what of them the log and the checkpoint hold."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixaug._checks import kind_of
from mixaug._tensor_files import finite_tensor
from mixaug.adautomix import AdAutoMix, AdAutoMixOutput
from mixaug.train.descent import load_optimiser
from mixaug.train.methods.step import Setup, Step, StepResult

__all__ = ["MIXING_COLUMNS", "AutoMixStep", "adautomix"]

#: Columns of the log: means over the epoch's steps of the classifier's loss on its mixtures and on the generator's, of
#: the teacher's loss on these, of their similarity to their sources and (where it has a weight) of the gap between the
#: shares of the masks and their ratios; steps skipped in the run so far.
MIXING_COLUMNS = ("mixed_loss", "adversarial_loss", "teacher_loss", "similarity", "share_gap", "skipped_steps")
_TERMS = ("mixed", "adversarial", "teacher", "similarity", "share_gap")


def adautomix(setup: Setup) -> Step:
    """AdAutoMix (Qin et al., 2024, arXiv:2312.11954): a generator learns mixtures that are hard for the classifier."""
    return AutoMixStep(setup)


class AutoMixStep(Step):
    """A step of both players: their losses go backward before either optimiser steps.

    The generator has SGD of its own with the run's momentum and weight decay; its rate follows the classifier's.

    Args:
        setup: of the method, with the model.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(self._losses)
        if setup.model is None:
            raise ValueError("setup must have the model for the method adautomix, got None")
        settings = vars(setup.settings)
        self._setup = setup
        without = settings["without"]
        self.mixer = AdAutoMix(
            setup.model,
            setup.num_classes,
            settings["feature_layer"],
            settings["n_mix"],
            settings["mix_alpha"],
            settings["mix_beta"],
            adversarial=not settings["cooperative"],
            clean_term="clean" not in without,
            plain_term="plain" not in without,
            teacher_term="teacher" not in without,
            similarity_term="similarity" not in without,
            share_weight=settings["share_weight"],
            concentration=settings["alpha"],
            per_image=settings["per_image"],
            generator_every=settings["generator_every"],
            generator_share=settings["generator_share"],
            terms_share=settings["terms_share"],
            shared_draws=settings["shared_draws"],
            momentum=settings["teacher_momentum"],
            generator=setup.generator,
        )
        self._lr: float = settings["generator_lr"]
        self.optimiser = torch.optim.SGD(
            self.mixer.generator.parameters(),
            self._lr,
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
        )
        self._every: int = settings["picture_every"]
        self._out: AdAutoMixOutput | None = None
        self._shown: tuple[Tensor, Tensor] | None = None
        self._sums = torch.zeros(2, len(_TERMS), dtype=torch.float64)  # values and how many, of this epoch

    def _losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> StepResult:
        out = self.mixer(images, labels)
        self._out = None
        if not self.mixer.is_finite(out):
            return StepResult(out.classifier_loss.detach(), out.logits, out.targets.argmax(1), skipped=True)
        self._out, self._shown = out, (images, labels)
        if self._sums.device != out.logits.device:
            self._sums = self._sums.to(out.logits.device)
        for position, name in enumerate(_TERMS):
            if name in out.terms:
                self._sums[0, position] += out.terms[name]
                self._sums[1, position] += 1
        return StepResult(out.classifier_loss, out.logits, out.targets.argmax(1))

    def backward(self, result: StepResult, scaler: torch.amp.GradScaler) -> None:
        """Both players' backward passes."""
        self.optimiser.zero_grad(set_to_none=True)
        super().backward(result, scaler)
        if self._out is not None and self._out.generator_turn:
            scaler.scale(self._out.generator_loss).backward()

    def optimise(self, scaler: torch.amp.GradScaler, rate: float) -> None:
        """The generator's step."""
        if self._out is not None and self._out.generator_turn:
            for group in self.optimiser.param_groups:
                group["lr"] = self._lr * rate
            scaler.step(self.optimiser)

    def finish(self, step: int, total_steps: int) -> None:
        """The teacher's step, and every so many steps a picture."""
        if self._out is None:
            return
        self.mixer.update_teacher(step, total_steps)
        leads = self._setup.processes.leads
        if leads and self._every and (step + 1) % self._every == 0 and find_spec("matplotlib") is not None:
            self._draw(step + 1)
        self._out = self._shown = None

    def columns(self) -> dict[str, float]:
        """The epoch's means, over all processes."""
        values, counts = self._setup.processes.total(self._sums).tolist()
        self._sums = torch.zeros_like(self._sums)
        means = {name: value / n for name, value, n in zip(MIXING_COLUMNS, values, counts, strict=False) if n}
        return {**means, "skipped_steps": float(self.mixer.skipped)}

    def end_epoch(self, row: Mapping[str, float]) -> str:
        """Writes the generator with its teacher, for use in other trainings."""
        if self._setup.processes.leads:
            self.mixer.save(
                self._setup.settings.folder / "generator.pt", spec=self._setup.spec, classes=self._setup.classes
            )
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Generator, teacher, their optimiser, the epoch's sums."""
        return {
            "mixer": self.mixer.state_dict(),
            "generator_optimiser": self.optimiser.state_dict(),
            "sums": self._setup.processes.total(self._sums).cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        for name, value in state["mixer"].items():
            if isinstance(value, Tensor):
                finite_tensor(f"mixer[{name!r}]", value)
        self.mixer.load_state_dict(state["mixer"])
        load_optimiser(self.optimiser, state["generator_optimiser"])
        # The sums are of all processes: the first one goes on from them.
        sums = finite_tensor("sums", state["sums"])
        if sums.shape != self._sums.shape or sums.dtype != self._sums.dtype:
            raise ValueError(f"sums must be {self._sums.dtype} of shape {tuple(self._sums.shape)}, got {kind_of(sums)}")
        sums = sums.to(self._sums.device)
        self._sums = sums if self._setup.processes.leads else torch.zeros_like(sums)

    def _draw(self, step: int) -> None:
        from mixaug.adautomix.figure import draw_mixtures

        out, (images, labels) = cast(AdAutoMixOutput, self._out), cast("tuple[Tensor, Tensor]", self._shown)
        names = [self._setup.classes[int(label)] for label in labels] if self._setup.classes else None
        path = Path(self._setup.settings.folder) / "mixtures" / f"step-{step:06d}.png"
        draw_mixtures(
            images.cpu(), out.draw.to("cpu"), out.masks.cpu(), out.mixed.cpu(), names, path, heading=f"step {step}"
        )
