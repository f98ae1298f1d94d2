"""PGD against a hand-written loop, its bounds, and what it must leave alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mixaug.attacks import PGD
from mixaug.attacks._random import other_classes
from mixaug.attacks._state import training_attack


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 5)
    ).eval()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, 3, 8, 8, generator=generator), torch.randint(5, (6,), generator=generator)


def by_hand(model, images, labels, eps, step_size, steps, seed, targeted=False, classes=5):
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model).eval()
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    x = torch.clamp(images + eps * (2 * torch.rand(images.shape, generator=generator) - 1), low, high)
    if targeted:
        labels = (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = cross_entropy(model(x), labels, reduction="sum")
        gradient = torch.autograd.grad(loss, x)[0]
        step = (-1 if targeted else 1) * step_size * gradient.sign()
        x = torch.clamp(x + step, low, high)
    return x.detach()


@pytest.mark.parametrize("targeted", [False, True])
def test_equals_the_hand_written_loop_bit_for_bit(model, batch, targeted):
    attack = PGD(0.05, 0.02, 4, targeted, generator=torch.Generator().manual_seed(9))
    assert torch.equal(attack(model, *batch), by_hand(model, *batch, 0.05, 0.02, 4, 9, targeted))


@pytest.mark.parametrize("eps", [0.0, 8 / 255, 0.5])
@pytest.mark.parametrize("random_start", [False, True])
def test_stays_in_the_ball_and_in_range(model, batch, eps, random_start):
    images = batch[0].clone()
    images[0], images[1] = 0, 1
    before = images.clone()
    adversarial = PGD(eps, eps / 2, 3, random_start=random_start)(model, images, batch[1])
    assert torch.equal(images, before)
    assert (adversarial - images).abs().max() <= eps + 1e-7
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not adversarial.requires_grad


def test_raises_the_loss_and_the_target_lowers_it(model, batch):
    def loss(images, labels):
        return cross_entropy(copy.deepcopy(model).eval()(images), labels).item()

    images, labels = batch
    assert loss(PGD(0.1, 0.03, 10)(model, images, labels), labels) > loss(images, labels) + 0.05
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    PGD(0.1, 0.03, 10, targeted=True)(model, images, labels)
    handle.remove()
    assert len(seen) == 10  # no pass beside the steps


def test_targets_are_uniform_over_the_other_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(3000)
    counts = torch.zeros(4, 4)
    counts.index_put_((labels, other_classes(labels, 4, generator)), torch.ones(()), accumulate=True)
    assert counts.diagonal().sum() == 0
    others = counts[~torch.eye(4, dtype=torch.bool)]
    assert ((others - 1000) ** 2 / 1000).sum() < 36  # chi-squared, 8 degrees of freedom, p = 2e-5


def state_of(model: nn.Module):
    return (
        [module.training for module in model.modules()],
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
    )


def same_state(one, two) -> bool:
    tensors = all(torch.equal(one[1][name], two[1][name]) for name in one[1])
    gradients = all(
        a[0] == b[0] and (a[1] is None) == (b[1] is None) and (a[1] is None or torch.equal(a[1], b[1]))
        for a, b in zip(one[2], two[2], strict=True)
    )
    return one[0] == two[0] and tensors and gradients


def test_leaves_the_model_as_it_was(model, batch):
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before = state_of(model)
    with training_attack():
        PGD(steps=2)(model, *batch)
    assert same_state(before, state_of(model))


def test_restores_every_mode_after_an_exception(model, batch):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    broken = nn.Sequential(model, Fails())
    broken.train()
    model[1].eval()
    before = state_of(broken)
    with pytest.raises(RuntimeError, match="broken"), training_attack():
        PGD()(broken, *batch)
    assert same_state(before, state_of(broken))


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(model, batch, guard):
    with guard():
        images = batch[0] * 1.0  # made inside: an inference tensor
        adversarial = PGD(0.05, 0.02, 2, generator=torch.Generator().manual_seed(3))(model, images, batch[1])
    assert torch.equal(adversarial, by_hand(model, *batch, 0.05, 0.02, 2, 3))


def test_keeps_dtype_and_memory_format(model, batch):
    images = batch[0].to(memory_format=torch.channels_last)
    assert PGD(steps=1)(model, images, batch[1]).is_contiguous(memory_format=torch.channels_last)
    assert PGD(steps=1)(model.bfloat16(), batch[0].bfloat16(), batch[1]).dtype == torch.bfloat16


def test_an_empty_batch_comes_back_empty(model):
    assert PGD()(model, torch.empty(0, 3, 8, 8), torch.empty(0, dtype=torch.int64)).shape == (0, 3, 8, 8)


def test_names_the_step_of_non_finite_logits(model, batch):
    class Breaks(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return model(x) * (float("nan") if self.calls >= 3 else 1.0)

    with pytest.raises(FloatingPointError, match="at step 3 of 5"):
        PGD(steps=5)(Breaks().eval(), *batch)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"eps": -0.1}, ValueError, "eps must be 0 or more"),
        ({"eps": float("nan")}, ValueError, "eps must be"),
        ({"eps": 8}, ValueError, "at most 1"),
        ({"eps": "8/255"}, TypeError, "eps must be a number, got str"),
        ({"eps": True}, TypeError, "eps must be a number, got bool"),
        ({"step_size": 0}, ValueError, "step_size must be above 0"),
        ({"steps": -1}, ValueError, "steps must be 0 or more, got -1"),
        ({"steps": 2.0}, TypeError, "steps must be an int, got float"),
        ({"targeted": 1}, TypeError, "targeted must be True or False"),
        ({"random_start": None}, TypeError, "random_start must be True or False"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator or None, got int"),
    ],
)
def test_refuses_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        PGD(**settings)


def test_refuses_wrong_batches(model, batch):
    images, labels = batch
    cases = [
        (("model", images, labels), TypeError, "model must be a torch.nn.Module, got str"),
        ((model, [1], labels), TypeError, "images must be a tensor, got list"),
        ((model, (images * 255).byte(), labels), TypeError, "divide uint8 images by 255"),
        ((model, images[0], labels), ValueError, r"images must have shape \(B, C, H, W\)"),
        ((model, images, labels.float()), TypeError, "labels must be an int64 tensor .or probabilities of shape .B, classes.., got torch.float32"),
        ((model, images, [0] * 6), TypeError, "labels must be an int64 tensor, got list"),
        ((model, images, labels[:5]), ValueError, r"labels must have shape \(6,\)"),
        ((model, images * 4 - 2, labels), ValueError, "normalise inside the model"),
        ((model, images * float("nan"), labels), ValueError, r"images must lie in \[0, 1\]"),
        ((model, images, labels - 9), ValueError, "labels must be 0 or more"),
        ((model, images, labels + 9), ValueError, "below the model's 5 classes"),
        ((nn.Flatten(0).eval(), images, labels), ValueError, "model must return logits of shape"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            PGD()(*arguments)
    one_class = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()
    with pytest.raises(ValueError, match="2 classes or more"):
        PGD(targeted=True)(one_class, images, labels * 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_starts_the_same_on_the_gpu(model, batch):
    def start(device):
        attack = PGD(0.05, 1e-9, 1, generator=torch.Generator().manual_seed(0))
        return attack(model.to(device), batch[0].to(device), batch[1].to(device)).cpu()

    assert torch.allclose(start("cpu"), start("cuda"), atol=1e-6)


def test_no_steps_is_the_start():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).eval()
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    assert PGD(steps=0, random_start=False)(model, images, labels).equal(images)
    moved = PGD(eps=0.1, steps=0)(model, images, labels)
    assert 0.05 < (moved - images).abs().max() <= 0.1 + 1e-6


def test_modes_are_restored_when_the_model_refuses_evaluation_mode():
    class Stubborn(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            if not mode:
                raise RuntimeError("no")
            return self

    model = Stubborn(nn.Flatten(), nn.Dropout(), nn.Linear(12, 2))
    with pytest.raises(RuntimeError, match="no"), training_attack():
        PGD(steps=1)(model, torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))
    assert all(module.training for module in model.modules())
