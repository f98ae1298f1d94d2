"""One pass of the classifier for both players, by itself; what it gives is in the tests of the players."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from mixaug.adautomix.passes import SharedPass


@pytest.mark.parametrize("order", ["classifier first", "generator first", "sum", "classifier", "generator", "none"])
def test_a_shared_pass_is_freed_without_a_collection(order: str) -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    gc.disable()
    try:
        mixed = weight * torch.ones(2, 3)
        shared = SharedPass(mixed, mixed, torch.tensor([True, False]))
        loss = shared.watch((shared.leaf * 5).sum())
        up, gone = shared.loss(), [weakref.ref(shared), weakref.ref(shared.leaf), weakref.ref(loss)]
        if order in ("generator", "generator first"):
            up.backward()
        if order in ("classifier", "classifier first", "generator first"):
            loss.backward()
        if order == "classifier first":
            up.backward()
        if order == "sum":
            (loss + up).backward()
        del shared, loss, up, mixed
        assert [ref() is None for ref in gone] == [True] * 3
    finally:
        gc.enable()
    assert weight.grad is None if order in ("classifier", "none") else weight.grad.tolist() == [15.0]


def test_the_loss_is_watched_before_it_is_given_on() -> None:
    mixed = torch.ones(1, 2, requires_grad=True) * 2
    shared = SharedPass(mixed, mixed, torch.tensor([True]))
    for call, message in ((shared.loss, "watch"), (shared.gradient, "the loss must have gone backward")):
        with pytest.raises(RuntimeError, match=message):
            call()
