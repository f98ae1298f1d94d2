"""AdAutoMix in two processes: both players' gradients are averages, several passes of the classifier in each step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from adautomix_parts import CLASSES, batch, clear, gradients, net, optimizers_of, seeded, state_of
from torch import Tensor, nn

from mixaug.adautomix import AdAutoMix, MixDraw, sample_mix

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
RANKS, STEPS = 2, 3
OPTIONS: list[dict[str, Any]] = [
    {},
    {"shared_draws": True, "adversarial": False},
    {"generator_every": 2, "terms_share": 0.5, "plain_term": False},
]


def made(model: nn.Module, **options: Any) -> AdAutoMix:
    mixer = AdAutoMix(model, CLASSES, "stage2", momentum=0.6, max_skipped=2, generator=seeded(3), **options)
    with torch.no_grad():
        mixer.generator.project.weight *= 4
    return mixer


def part(rank: int, step: int) -> tuple[Tensor, Tensor]:
    images, labels = batch(10, seed=20 + step)
    return images[5 * rank : 5 * rank + 5], labels[5 * rank : 5 * rank + 5]


def drawn(mixer: AdAutoMix, rank: int, step: int) -> tuple[MixDraw, MixDraw]:
    first, second = (sample_mix(5, mixer.law, seeded(100 * step + 10 * rank + player)) for player in range(2))
    return first, first if mixer.shared_draws else second


def backward(mixer: AdAutoMix, rank: int, step: int) -> list[Tensor | None]:
    """Both losses, in an order of their own in each step; the gradients."""
    clear(mixer.model, mixer.generator)
    out = mixer(*part(rank, step), drawn(mixer, rank, step))
    losses = [out.classifier_loss, out.generator_loss]
    for loss in losses if step % 2 else losses[::-1]:
        loss.backward()
    return gradients(mixer.model) + gradients(mixer.generator)


def one_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    found = [of_one(rank, options) for options in OPTIONS]
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def of_one(rank: int, options: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(rank)
    model = net(seed=rank)  # of the second process, weights that are not used: wrapping sends those of the first
    mixer = made(nn.parallel.DistributedDataParallel(model), **options)
    optimizers = optimizers_of(mixer)
    found: dict[str, Any] = {"start": [state_of(model), state_of(mixer.generator)], "gradients": [], "after": []}
    for step in range(STEPS):
        found["gradients"].append(backward(mixer, rank, step))
        assert mixer.is_finite(mixer_output(mixer))
        for optimizer in optimizers:
            optimizer.step()
        mixer.update_teacher(step, STEPS)
        found["after"].append([state_of(model), state_of(mixer.generator), state_of(mixer.teacher.model)])
    found["drawn"] = vars(mixer.sample(part(rank, 0)[0])[0])
    found["skipped"] = broken_steps(mixer, rank)
    found["last"] = backward(mixer, rank, 7)  # a skipped step leaves nothing behind that the next would wait for
    return found


def mixer_output(mixer: AdAutoMix) -> Any:
    zero = torch.zeros(())
    return type("Out", (), {"classifier_loss": zero, "generator_loss": zero})


def broken_steps(mixer: AdAutoMix, rank: int) -> list[Any]:
    """The second process alone has a broken image."""
    images, labels = part(rank, 5)
    broken = images.clone()
    if rank == 1:
        broken[0, 0, 0, 0] = torch.nan
    before = state_of(mixer.model)
    seen: list[Any] = [mixer.is_finite(mixer(broken, labels)), mixer.skipped]
    seen.append(all(value.isfinite().all() for value in state_of(mixer.model).values()))
    seen.append(rank == 1 or all(value.equal(before[name]) for name, value in state_of(mixer.model).items()))
    try:
        mixer.is_finite(mixer(broken, labels))
    except FloatingPointError as error:
        seen.append(str(error)[:50])
    return seen


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each process saw, for each of the options."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(one_process, (str(folder),), RANKS)
    both = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
    return [list(pair) for pair in zip(*both, strict=True)]


@pytest.mark.parametrize("place", range(len(OPTIONS)))
def test_gradients_are_the_average_of_single_processes(found: list, place: int) -> None:
    """Step by step beside one mixer for each process, whose gradients are averaged by hand."""
    first, second = found[place]
    alone = []
    for _ in range(RANKS):
        mixer = made(net(), **OPTIONS[place])
        mixer.model.load_state_dict(first["start"][0])
        mixer.teacher.model.load_state_dict(first["start"][0])
        mixer.generator.load_state_dict(first["start"][1])
        alone.append((mixer, optimizers_of(mixer)))
    for step in range(STEPS):
        # Buffers are sent before a step: the first process's batch statistics are everybody's.
        for mine, its in zip(alone[1][0].model.buffers(), alone[0][0].model.buffers(), strict=True):
            mine.copy_(its)
        given = [backward(mixer, rank, step) for rank, (mixer, _) in enumerate(alone)]
        plays = step % OPTIONS[place].get("generator_every", 1) == 0
        assert [value is None for value in given[0][-2:]] == [not plays] * 2
        average = [None if one is None else (one + two) / 2 for one, two in zip(*given, strict=True)]
        for one, two, expected in zip(first["gradients"][step], second["gradients"][step], average, strict=True):
            if expected is None:
                assert one is None and two is None
                continue
            assert one.equal(two)
            torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-5)
        for rank, (mixer, optimizers) in enumerate(alone):
            parameters = [*mixer.model.parameters(), *mixer.generator.parameters()]
            for parameter, gradient in zip(parameters, average, strict=True):
                parameter.grad = gradient
            for optimizer in optimizers:
                optimizer.step()
            mixer.update_teacher(step, STEPS)
            states = [state_of(mixer.model), state_of(mixer.generator), state_of(mixer.teacher.model)]
            for state, expected in zip(found[place][rank]["after"][step], states, strict=True):
                torch.testing.assert_close(state, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("place", range(len(OPTIONS)))
def test_both_processes_have_the_same_weights_and_draws_of_their_own(found: list, place: int) -> None:
    first, second = found[place]
    assert all(value.equal(second["start"][1][name]) for name, value in first["start"][1].items())
    for one, two in zip(first["after"], second["after"], strict=True):
        for mine, its in zip(one, two, strict=True):
            parameters = [name for name in mine if "running" not in name]
            assert all(mine[name].equal(its[name]) for name in parameters) and parameters
    assert not first["drawn"]["index"].equal(second["drawn"]["index"])
    assert not first["drawn"]["ratios"].equal(second["drawn"]["ratios"])


@pytest.mark.parametrize("place", range(len(OPTIONS)))
def test_all_skip_a_step_that_is_broken_in_one(found: list, place: int) -> None:
    for one in found[place]:
        assert one["skipped"][:4] == [False, 1, True, True]
        assert one["skipped"][4].startswith("the classifier's")
    one, two = (found[place][rank]["last"] for rank in range(RANKS))
    assert all((mine is None and its is None) or mine.equal(its) for mine, its in zip(one, two, strict=True))
    assert all(value.isfinite().all() for value in one if value is not None)
