"""How a run goes down: its optimiser, the rate of each step, the caps' proximal step, and the plateau that ends it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mixaug._checks import check_int, check_number, kind_of
from mixaug._tensor_files import finite_tensor, names, plain
from mixaug.nn import caps, drelu_penalty, param_groups, shrink_caps
from mixaug.train.schedules import RateSchedule
from mixaug.train.settings import TrainSettings

__all__ = ["HALVE_AFTER", "STOP_AFTER", "Descent", "load_optimiser"]

#: Epochs without a lower validation loss after which ``plateau`` halves the rate, and after which it ends the run.
HALVE_AFTER, STOP_AFTER = 5, 10
#: How much lower counts for the rate, as in Keras, which the D-ReLU paper used; any counts for the end.
_LOWER = 1e-4
#: What a plateau counts.
_COUNTS = ("num_bad_epochs", "cooldown_counter", "last_epoch")
#: What the optimisers keep of a weight.
_SGD, _ADAM = ("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")


class Descent:
    """The optimiser with all that decides its rates; the loop calls it before and after a step and after an epoch.

    SGD with Nesterov momentum or Adam. The caps of D-ReLU have a group of their own without weight decay, whose rate
    keeps its ratio to the others'; after each step they are shrunk, see :func:`mixaug.nn.shrink_caps`.

    Convention:
        With ``plateau`` the rate is constant, is halved after ``HALVE_AFTER`` epochs in which the validation loss did
        not fall, and the run ends after ``STOP_AFTER`` such epochs. The loss is the cross-entropy of the clean
        validation images *plus the penalty of the caps*, as the loss of Keras is: without it a run would end long
        before the caps have come down from 100 to an activation.

    Args:
        model: whose parameters are trained.
        settings: of the run.
        total_steps: of the run.
        steps_per_epoch: of the run.

    Example:
        >>> descent = Descent(nn.Linear(2, 2), TrainSettings(lr=0.5), total_steps=4, steps_per_epoch=2)
        >>> descent.before_step(2)
        >>> round(descent.rate, 3)
        0.25
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, total_steps: int, steps_per_epoch: int) -> None:
        lr, decay = cast(float, settings.lr), cast(float, settings.weight_decay)
        self._model = model
        self._lam = settings.drelu_lambda if any(True for _ in caps(model)) else None
        groups = param_groups(model, decay, settings.drelu_m_lr if self._lam is not None else None)
        for group in groups:
            group["factor"] = group.get("lr", lr) / lr
        self.optimiser: torch.optim.Optimizer
        if settings.optimizer == "adam":
            self.optimiser = torch.optim.Adam(groups, lr=lr)
        else:
            self.optimiser = torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
        self._plateau: ReduceLROnPlateau | None = None
        self._schedule: RateSchedule | None = None
        if settings.plateau:
            # torch halves after *more* than `patience` epochs.
            self._plateau = ReduceLROnPlateau(
                self.optimiser, factor=0.5, patience=HALVE_AFTER - 1, threshold=_LOWER, threshold_mode="abs"
            )
        else:
            self._schedule = RateSchedule(
                lr, total_steps, steps_per_epoch, settings.warmup, settings.schedule, settings.lr_decay
            )
        self._lowest, self._waited = math.inf, 0

    @property
    def rate(self) -> float:
        """The learning rate of the weights in the last step."""
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def ended(self) -> bool:
        """Whether the validation loss has not fallen for so long that the run is over."""
        return self._plateau is not None and self._waited >= STOP_AFTER

    def before_step(self, step: int) -> None:
        """Sets the rates.

        Args:
            step: of the run, from 0.
        """
        if self._schedule is not None:
            for group in self.optimiser.param_groups:
                group["lr"] = self._schedule(step) * group.get("factor", 1.0)  # runs of before D-ReLU have no factor

    def after_step(self) -> None:
        """Shrinks the caps, with the rate of the step that was taken."""
        if self._lam:
            shrink_caps(self._model, self._lam, float(self.optimiser.param_groups[-1]["lr"]))

    def after_epoch(self, row: Mapping[str, float]) -> str:
        """Follows the validation loss.

        Args:
            row: of the log, with ``validation_loss``.

        Returns:
            a line that the user should see; empty for nothing.
        """
        if self._plateau is None:
            return ""
        loss, before = row["validation_loss"], self.rate
        if self._lam:
            loss += self._lam * float(drelu_penalty(self._model).detach())
        self._waited = 0 if loss < self._lowest else self._waited + 1
        self._lowest = min(loss, self._lowest)
        self._plateau.step(loss)
        if self.ended:
            return f"The validation loss has not fallen for {STOP_AFTER} epochs: the run ends here."
        return f"The learning rate is halved, from {before:g} to {self.rate:g}." if self.rate < before else ""

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch depends on besides the optimiser's own state."""
        return {
            "plateau": None if self._plateau is None else self._plateau.state_dict(),
            "lowest": self._lowest,
            "waited": self._waited,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        if self._plateau is not None:
            _load_plateau(self._plateau, plain(names(state["plateau"])))
        _check_lowest("lowest", state["lowest"])
        self._lowest, self._waited = float(state["lowest"]), check_int("waited", state["waited"], 0, STOP_AFTER)


def _check_lowest(name: str, value: Any) -> None:
    """Raises unless the lowest loss so far is a number; it is infinite before the first."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise TypeError(f"{name} must be a number, got {value!r}")


def _load_plateau(plateau: ReduceLROnPlateau, state: dict[str, Any]) -> None:
    """``plateau.load_state_dict``, which itself takes anything."""
    own = plateau.state_dict()
    for name, value in state.items():
        if name == "best":
            _check_lowest(name, value)
        elif name in _COUNTS:
            check_int(name, value, 0)
        elif name == "_last_lr":
            for rate in value:
                check_number(name, rate, 0.0)
        elif name in own and value != own[name]:
            raise ValueError(f"{name} must be that of the settings, {own[name]}, got {value}")
    missing = [name for name in ("best", *_COUNTS) if name not in state]
    if missing:
        raise ValueError(f"it must have {', '.join(missing)}")
    # Other versions of torch may lack a setting.
    plateau.load_state_dict({**own, **state})


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """``optimiser.load_state_dict``, which itself takes buffers of any shape and number.

    Args:
        optimiser: that goes on.
        state: of a file.

    Raises:
        TypeError: another kind.
        ValueError: a buffer that is missing, of another shape than its weight or not possible, or another setting.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> state = {**sgd.state_dict(), "state": {0: {"momentum_buffer": torch.zeros(1)}}}
        >>> load_optimiser(sgd, state)
        Traceback (most recent call last):
        ValueError: state[0]['momentum_buffer'] must have the shape of its weight, (2,), got (1,)
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    buffers = _ADAM if isinstance(optimiser, torch.optim.Adam) else _SGD if optimiser.defaults["momentum"] else ()
    own_groups = optimiser.state_dict()["param_groups"]
    if not isinstance(names(state)["state"], dict):
        raise TypeError(f"state must be numbers of weights with buffers, got {kind_of(state['state'])}")
    # Of all weights but those that had no gradient yet.
    for index, values in state["state"].items():
        shape = tuple(weights[check_int("the weight's number", index, 0, len(weights) - 1)].shape)
        values = {name: value for name, value in names(values).items() if name in buffers or value is not None}
        if set(values) != set(buffers):
            raise ValueError(f"state[{index}] must have {', '.join(buffers) or 'nothing'}, got {', '.join(values)}")
        for name, value in values.items():
            label, wanted = f"state[{index}][{name!r}]", () if name == "step" else shape
            found = finite_tensor(label, value)
            if found.shape != wanted:
                raise ValueError(f"{label} must have the shape of its weight, {wanted}, got {tuple(found.shape)}")
            if found.dtype != torch.float32:
                raise TypeError(f"{label} must be float32, got {kind_of(found)}")
            if name in ("step", "exp_avg_sq") and (found < (name == "step")).any():
                raise ValueError(f"{label} must be at least {int(name == 'step')}, got {found.min().item()}")
    groups = list(zip(own_groups, state["param_groups"], strict=True))
    for own, group in groups:
        check_number("lr", plain(group)["lr"], 0.0)
        for name, value in group.items():
            if name in own and name not in ("lr", "initial_lr") and value != own[name]:
                raise ValueError(f"{name} must be that of the settings, {own[name]}, got {value}")
    # Other versions, of mixaug and of torch, may lack a setting.
    optimiser.load_state_dict({**state, "param_groups": [{**own, **group} for own, group in groups]})
