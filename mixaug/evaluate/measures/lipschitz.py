"""How fast a model's logits change around its images: the local Lipschitz constant, found by gradient ascent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mixaug._checks import ABOVE_ZERO, MAX_COUNT, check_int, check_length, check_seed
from mixaug._model_state import check_logits, check_model, evaluation_mode, home_of
from mixaug._pictures import as_float
from mixaug.attacks.attack import uniform_like
from mixaug.attacks.steps import Health, Point, ball_around, follow_gradient
from mixaug.evaluate.encoding import pack, unpack
from mixaug.evaluate.images import LabelledImages
from mixaug.evaluate.intervals import Estimate, Quantity, bootstrap_means
from mixaug.evaluate.measure import Inputs, Measure, Measured, ModelInfo, ModelRunner
from mixaug.evaluate.seeds import seed_of, subset
from mixaug.evaluate.subject import on_device

STEPS = 20


def local_lipschitz(
    model: nn.Module,
    dataset: Any,
    eps: float = 8 / 255,
    *,
    steps: int = STEPS,
    step_size: float | None = None,
    n: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Quantity:
    """The local Lipschitz constant of a classifier: how much its logits move for a small change of the pixels.

    ``mean over images x of max_{x' : ||x - x'||_inf <= eps} ||f(x) - f(x')||_1 / ||x - x'||_inf``, f the logits. Yang,
    Rashtchian, Zhang, Salakhutdinov, Chaudhuri, "A closer look at accuracy vs. robustness", NeurIPS 2020
    (arXiv:2003.02460).

    Convention: see :func:`lipschitz_constants`. Labels are not used, and misclassified images count like all others.

    Args:
        model: takes float32 images (B, C, H, W) in [0, 1] and gives logits (B, K).
        dataset: as for :func:`~mixaug.evaluate.evaluate_model`.
        eps: radius in pixel units of images in [0, 1]; above 0, default 8/255.
        steps: steps of the ascent, default 20.
        step_size: length of a step; default a quarter of ``eps``.
        n: number of images, drawn from the seed: the same as ``evaluate_model`` attacks; default all.
        batch_size: images in one pass of the model, default 256.
        seed: of the subset and the random starts, default 0.
        device: where the model runs; default where its first parameter is.

    Returns:
        The mean over the images, with the 95% bootstrap interval over them: a lower bound of the true constant, since
        an ascent may miss the highest point.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range, logits of a wrong shape.
        FloatingPointError: logits or gradients that are not finite; it names the step.

    Note:
        The constant grows with the scale of the logits: a model whose logits are divided by 10 has a tenth of it and
        the same predictions. Compare it beside accuracies under attack, not in their place.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
        >>> _ = nn.init.constant_(model[1].weight, 0.5)
        >>> estimate = local_lipschitz(model, (torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)))
        >>> round(estimate.value, 3), estimate.n  # the sum of the weights' sizes
        (2.0, 3)
    """
    check_model(model)
    batch_size = check_int("batch_size", batch_size, 1, MAX_COUNT)
    seed = check_seed("seed", seed)
    data = LabelledImages(dataset)
    index = subset("n", n, len(data), seed)
    home = home_of(model)
    target = home if device is None else torch.device(device)
    generator = torch.Generator().manual_seed(seed_of(seed, "lipschitz"))
    with on_device(model, home, target):
        constants = [
            lipschitz_constants(
                model, as_float(images).to(target), eps, steps=steps, step_size=step_size, generator=generator
            ).cpu()
            for images, _ in data.blocks(index, batch_size)
        ]
    return mean_constant(torch.cat(constants))


def lipschitz_constants(
    model: nn.Module,
    images: Tensor,
    eps: float,
    *,
    steps: int = STEPS,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The largest ``||f(x) - f(x')||_1 / ||x - x'||_inf`` that an ascent around each image of a batch meets.

    Convention: x' starts at a uniform point of the ball in [0, 1], and each step goes up ``||f(x) - f(x')||_1`` by
    the sign of its gradient, back into the ball and [0, 1]. The constant is the largest ratio of all points visited,
    also those on the way, not that of the last. The model runs in evaluation mode and is left as it was.

    Args:
        model: gives logits (B, K).
        images: (B, C, H, W) floating point in [0, 1].
        eps, steps, step_size: as for :func:`local_lipschitz`.
        generator: source of the starts; default torch's own.

    Shape:
        Result (B,) float32 (float64 for float64 images).

    Returns:
        The constants, detached.

    Raises:
        TypeError, ValueError, FloatingPointError: as :func:`local_lipschitz`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
        >>> lipschitz_constants(model, torch.rand(4, 3, 2, 2), eps=0.1).shape
        torch.Size([4])
    """
    eps = check_length("eps", eps, ABOVE_ZERO)
    steps = check_int("steps", steps, 0)
    length = eps / 4 if step_size is None else step_size
    length = check_length("step_size", length)
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
        got = f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be floating point of shape (B, C, H, W) in [0, 1], got {got}")
    images = images.detach()
    if len(images) == 0:
        return images.new_empty(0, dtype=_wide(images).dtype)
    ball = ball_around(images, eps, "linf")
    with evaluation_mode(model), torch.inference_mode(False):
        with torch.no_grad():
            clean = _wide(check_logits(model(images), len(images)))
        largest = torch.zeros(len(images), dtype=clean.dtype, device=images.device)

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            logits = _wide(check_logits(model(points), len(points)))
            return (logits - clean).abs().sum(1), logits

        def ratio(points: Tensor, change: Tensor) -> Tensor:
            distance = (points - images).abs().amax((1, 2, 3)).to(change.dtype)
            return torch.where(distance > 0, change / distance.clamp_min(torch.finfo(change.dtype).tiny), 0.0)

        def move(point: Point) -> Tensor:
            torch.maximum(largest, ratio(point.variable, point.losses), out=largest)
            return ball.move(point.variable, point.gradient, length)

        health = Health()
        # Uniform in the part of the ball in [0, 1]: clipped to it, black pixels would often start where they are, and a
        # point that is the image itself has no gradient.
        low, high = (images - eps).clamp_min(0), (images + eps).clamp_max(1)
        start = ball.project(low + (high - low) * uniform_like(images, generator))
        with torch.enable_grad():
            last = follow_gradient(start, evaluate, move, steps, health)
        with torch.no_grad():
            torch.maximum(largest, ratio(last, evaluate(last)[0]), out=largest)
        health.report()
    return largest


def mean_constant(constants: Tensor) -> Quantity:
    """The mean of (n,) constants with its 95% bootstrap interval over the images.

    Example:
        >>> mean_constant(torch.tensor([2.0, 2.0])).text
        '2.00'
    """
    (estimate,) = bootstrap_means(constants[:, None])
    return Quantity(**vars(estimate))


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class LipschitzConstant(Measure[Measured[Tensor]]):
    """The local Lipschitz constant at each image, (n,) float32, see :func:`local_lipschitz`."""

    name, order, usual = "lipschitz", 60, 100
    needs_gradient = True
    of_radius = "the Lipschitz constant"
    quantity = "the Lipschitz constant"
    by_gradients = "a Lipschitz constant found by gradients"

    def work(self, n: int, eps: float) -> float:
        return 3.0 * STEPS * n  # a step is a forward and a backward pass

    def compute(self, runner: ModelRunner, index: Tensor, inputs: Inputs) -> Measured[Tensor]:
        def constants() -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(seed_of(runner.seed, "lipschitz"))
            found = []
            for images, _ in runner.data.blocks(index, runner.batch_size):
                batch = as_float(images).to(runner.device)
                found.append(lipschitz_constants(runner.model, batch, inputs.eps, generator=generator).float().cpu())
            return {"constants": torch.cat(found)}

        runner.bar.doing("Lipschitz constant")
        piece = runner.journal.keep("lipschitz", constants, index, inputs.eps, runner.batch_size)
        runner.step("Lipschitz constant", self.work(len(index), inputs.eps))
        return Measured(index, piece["constants"])

    def to_json(self, result: Measured[Tensor] | None) -> dict[str, Any]:
        if result is None:
            result = Measured(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float32))
        return {"lipschitz_index": pack(result.index.int()), "lipschitz": pack(result.value.float())}

    def from_json(self, data: Mapping[str, Any], clean: tuple[Tensor, Tensor]) -> Measured[Tensor] | None:
        constants = unpack(data["lipschitz"], torch.float32)
        if len(constants) == 0:
            return None
        return Measured(unpack(data["lipschitz_index"], torch.int32).long(), constants)

    def summary(self, result: Measured[Tensor] | None) -> dict[str, Any]:
        return {"lipschitz": None if result is None else vars(mean_constant(result.value))}

    def rows(self, result: Measured[Tensor]) -> dict[str, tuple[str, Estimate]]:
        return {"lipschitz": ("Lipschitz constant", mean_constant(result.value))}

    def count(self, result: Measured[Tensor]) -> str:
        return f"Lipschitz constant on {len(result.value):,}"

    def notes(self, result: Measured[Tensor]) -> list[str]:
        return [
            "The Lipschitz constant is a lower bound found by gradient ascent, and grows with the scale of the logits."
        ]

    def same(self, one: Measured[Tensor], other: Measured[Tensor], models: tuple[ModelInfo, ModelInfo]) -> bool:
        return torch.equal(one.index, other.index)

    def by_image(self, result: Measured[Tensor], key: str) -> Tensor:
        return result.value.double()

    def difference(self, one: Measured[Tensor], other: Measured[Tensor], key: str) -> Estimate:
        return Quantity(**vars(super().difference(one, other, key)))


MEASURE = LipschitzConstant()
