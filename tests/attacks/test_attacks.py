"""What every attack keeps to: the model left as it was, bounds, randomness, passes, chunks."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter

import pytest
import torch
from attack_reference import (
    ATTACKS,
    CLASSES,
    FOREIGN,
    RADIUS,
    Counting,
    batch,
    each_attack,
    generator,
    needs_pyautoattack,
    same_state,
    small_model,
    state_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mixaug.attacks
from mixaug._model_state import training_attack
from mixaug.attacks import CWL2, FGSM, KLPGD, PGD, SPSA, CWLinf, FeatureScatter, two_views
from mixaug.attacks.attack import other_classes


@pytest.mark.parametrize("size", [(8, 10), (15, 15)], ids=["8x10", "15x15"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[needs_pyautoattack] if n in FOREIGN else []) for n in ATTACKS])
def test_result_is_a_new_batch_in_the_ball_and_in_range(name, size):
    if name == "square-l2" and size[0] != size[1]:
        pytest.skip("square images only")
    model = small_model(size)
    images, _ = batch(size=size)
    images[0], images[1] = 0, 1
    images = images.to(memory_format=torch.channels_last)
    labels = model(images).argmax(1)
    before, version = images.clone(), images._version
    adversarial = ATTACKS[name](generator())(model, images, labels)
    assert torch.equal(images, before)
    assert images._version == version
    assert adversarial.data_ptr() != images.data_ptr()
    assert (adversarial.shape, adversarial.dtype) == (images.shape, images.dtype)
    assert adversarial.is_contiguous(memory_format=torch.channels_last)
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not torch.equal(adversarial, images)
    if name in RADIUS:
        eps, norm = RADIUS[name]
        change = (adversarial - images).flatten(1)
        assert change.norm(dim=1, p=2 if norm == "l2" else torch.inf).max() <= eps + 1e-6


@each_attack()
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "raises half-way"])
def test_leaves_the_model_as_it_was(make, fails):
    size = (15, 15)

    def fail(logits):
        raise RuntimeError("broken")

    model = Counting(small_model(size), fail if fails else None, at=2 if make(None).name != "fgsm" else 1)
    images, _ = batch(size=size)
    labels = model.model(images).argmax(1)
    model.train()
    model.model[1].eval()
    model.model[0].weight.requires_grad_(False)
    model.model[5].weight.grad = torch.ones_like(model.model[5].weight)
    before = state_of(model)
    attack = make(generator())
    with training_attack():
        if fails:
            with pytest.raises(RuntimeError, match="broken"):
                attack(model, images, labels)
        else:
            attack(model, images, labels)
    assert same_state(before, state_of(model))
    assert len(model.sizes) > 0


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


@pytest.mark.parametrize("make", [PGD, FGSM, KLPGD, FeatureScatter, CWLinf])
def test_batch_norms_move_when_asked_and_only_those_that_train(make):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(240, 5)).train()
    model[1].eval()
    images, labels = batch()
    seen = []
    model[2].register_forward_hook(lambda module, *_: seen.append(module.training))
    with training_attack():
        make(batch_norm="still")(model, images, labels)
        assert model[0].running_mean.abs().max() == 0
        make(batch_norm="moves")(model, images, labels)
    assert model[0].running_mean.abs().max() > 0
    assert model[1].running_mean.abs().max() == 0
    assert not any(seen)  # dropout stays off
    assert [module.training for module in model] == [True, False, True, True, True]


@each_attack()
def test_same_seed_same_result_and_another_seed_another(make):
    size = (15, 15)
    model = small_model(size)
    images, _ = batch(size=size)
    labels = model(images).argmax(1)
    one, two, other = (make(generator(seed))(model, images, labels) for seed in (4, 4, 5))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@each_attack("cw-l2")
def test_a_given_generator_leaves_the_global_one_alone(make):
    size = (15, 15)
    images, labels = batch(size=size)
    before = torch.get_rng_state()
    make(generator())(small_model(size), images, labels)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@each_attack()
def test_works_where_gradients_are_off(make, guard):
    size = (15, 15)
    model = small_model(size)
    images, labels = batch(size=size)
    expected = make(generator())(model, images, labels)
    with guard():
        adversarial = make(generator())(model, images * 1.0, labels * 1)  # made inside: inference tensors
    assert torch.equal(adversarial, expected)


@each_attack()
def test_an_empty_batch_comes_back_empty_and_one_image_as_one(make):
    size = (15, 15)
    model = small_model(size)
    images, labels = batch(1, size=size)
    assert make(None)(model, images[:0], labels[:0]).shape == (0, 3, *size)
    assert make(None)(model, images, labels).shape == (1, 3, *size)


@each_attack()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_keeps_the_dtype_of_images_and_model(make, dtype):
    size = (15, 15)
    images, labels = batch(size=size)
    adversarial = make(generator())(small_model(size).to(dtype), images.to(dtype), labels)
    assert adversarial.dtype == dtype
    assert adversarial.isfinite().all()


@each_attack()
def test_autocast_stays_on_and_a_training_step_in_it_still_trains(make):
    size = (15, 15)
    model = small_model(size)
    images, labels = batch(size=size)
    dtypes = set()
    model[5].register_forward_hook(lambda _module, _args, output: dtypes.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        adversarial = make(generator())(model, images, labels)
        nn.functional.cross_entropy(model(adversarial), labels).backward()
    assert dtypes == {torch.bfloat16}
    assert adversarial.dtype == torch.float32
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        (FGSM(), 1),
        (PGD(steps=7), 7),
        (CWLinf(), 20),
        (KLPGD(steps=7), 8),
        (FeatureScatter(), 2),
        (CWL2(abort_early=False), 450),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_no_pass_beside_the_steps(attack, passes):
    model = Counting(small_model()).eval()
    attack(model, *batch())
    assert model.sizes == [6] * passes


class Reads(TorchDispatchMode):
    """Counts operations that wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal):
            self.count["waits"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [PGD, CWLinf, KLPGD, lambda steps: SPSA(steps=steps, samples=2), lambda steps: PGD(
    0.5, 0.1, steps, norm="l2")], ids=["pgd", "cw", "kl-pgd", "spsa", "pgd-l2"])  # fmt: skip
def test_no_step_reads_a_value_from_the_device(make):
    counts = []
    for steps in (2, 9):
        with Reads() as reads:
            make(steps=steps)(small_model(), *batch())
        counts.append(reads.count["waits"])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["pgd", "pgd-targeted", "pgd-l2", "cw", "kl-pgd", "spsa", "cw-l2"])
def test_chunks_change_nothing_but_the_size_of_the_passes(name):
    images, labels = batch(7)
    whole = ATTACKS[name](generator())
    chunked = dataclasses.replace(whole, batch_size=3, generator=generator())
    model = Counting(small_model()).eval()
    torch.testing.assert_close(chunked(model, images, labels), whole(small_model(), images, labels), rtol=0, atol=1e-6)
    assert max(model.sizes) == 3


@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.05, 0.02, 5, random_start=False),
        PGD(0.5, 0.2, 5, random_start=False, norm="l2"),
        CWLinf(0.05, 0.02, 5, random_start=False, early_stop=True),
        CWL2(20, 0.05, 5),
    ],
    ids=lambda attack: attack.name,
)
def test_an_image_does_not_depend_on_its_batch(attack):
    model = small_model().double()
    images, labels = batch()
    images = images.double()
    together = attack(model, images, labels)
    alone = torch.cat([attack(model, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    eps=st.floats(0, 1),
    ratio=st.floats(0.01, 3),
    steps=st.integers(0, 3),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    count=st.integers(1, 3),
    norm=st.sampled_from(["linf", "l2"]),
    targeted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pgd_stays_in_its_ball(eps, ratio, steps, size, count, norm, targeted, seed):
    draws = generator(seed)
    images = torch.rand(count, 2, *size, generator=draws).round(decimals=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 3)).eval()
    attack = PGD(eps, max(min(eps * ratio, 1), 1e-6), steps, targeted, generator=draws, norm=norm)
    adversarial = attack(model, images, torch.zeros(count, dtype=torch.int64))
    change = (adversarial - images).flatten(1).norm(dim=1, p=2 if norm == "l2" else torch.inf)
    assert change.max() <= eps + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


def test_early_stop_drops_the_images_that_are_done():
    model = Counting(small_model()).eval()
    images, _ = batch(12)
    labels = model.model(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % CLASSES  # wrong from the start
    attack = PGD(0.2, 0.01, 12, random_start=False, early_stop=True)
    adversarial = attack(model, images, labels)
    assert model.sizes[:2] == [12, 8]
    assert model.sizes == sorted(model.sizes, reverse=True)
    assert sum(model.sizes) < 12 * 12 / 2
    assert torch.equal(adversarial[:4], images[:4])
    assert (model.model(adversarial).argmax(1) != labels).all()


def test_early_stop_of_targeted_attacks_waits_for_the_target():
    model = Counting(small_model()).eval()
    images, labels = batch(12)
    targets = model.model(images).argmax(1)
    attack = PGD(0.2, 0.01, 5, targeted=True, random_start=False, early_stop=True)
    assert torch.equal(attack(model, images, labels, targets=targets), images)
    assert model.sizes == [12]
    attack(model, images, labels, targets=(targets + 1) % CLASSES)
    assert model.sizes[1:3] == [12, 12]  # nobody is there yet


def test_spsa_with_early_stop_asks_only_for_the_images_left():
    images, _ = batch()
    model = Counting(small_model()).eval()
    wrong = (model.model(images).argmax(1) + 1) % CLASSES
    attack = SPSA(steps=3, samples=4, early_stop=True)
    assert torch.equal(attack(model, images, wrong), images)
    assert model.sizes == [6]


def test_names():
    names = {
        FGSM(): "fgsm",
        FGSM(targeted=True, norm="l2"): "fgsm-l2-targeted",
        PGD(steps=20): "pgd-20",
        PGD(targeted=True): "pgd-10-targeted",
        PGD(norm="l2"): "pgd-10-l2",
        PGD(objective=mixaug.attacks.dlr): "pgd-dlr-10",
        PGD(objective=lambda z, y: z.sum(1)): "pgd-<lambda>-10",
        CWLinf(): "cw-20",
        CWL2(): "cw-l2",
        SPSA(): "spsa",
        KLPGD(): "kl-pgd-10",
        FeatureScatter(): "feature-scatter",
    }
    assert [attack.name for attack in names] == list(names.values())


@needs_pyautoattack
def test_names_of_the_foreign_attacks():
    attacks = [mixaug.attacks.APGD(), mixaug.attacks.APGD(loss="dlr"), mixaug.attacks.Square(norm="l2")]
    attacks += [mixaug.attacks.AutoAttack(), mixaug.attacks.AutoAttack(version="rand")]
    expected = ["apgd-ce", "apgd-dlr", "square-l2", "autoattack", "autoattack-rand"]
    assert [attack.name for attack in attacks] == expected


def test_targets_are_uniform_over_the_other_classes():
    draws = generator()
    labels = torch.arange(4).repeat(3000)
    counts = torch.zeros(4, 4)
    counts.index_put_((labels, other_classes(labels, 4, draws)), torch.ones(()), accumulate=True)
    assert counts.diagonal().sum() == 0
    others = counts[~torch.eye(4, dtype=torch.bool)]
    assert ((others - 1000) ** 2 / 1000).sum() < 36  # chi-squared, 8 degrees of freedom, p = 2e-5


def test_two_views_are_one_attack_on_the_doubled_batch():
    images, labels = batch()
    model = Counting(small_model()).train()  # a part of training: no warning
    attack = PGD(0.05, 0.02, 3, True, generator=generator())
    one, two = two_views(attack, model, images, labels)
    assert model.sizes == [12] * 3
    doubled = PGD(0.05, 0.02, 3, True, generator=generator())
    both = doubled(small_model(), torch.cat([images] * 2), torch.cat([labels] * 2))
    assert torch.equal(torch.cat([one, two]), both)
    assert (one != two).flatten(1).any(1).all()


def test_two_views_take_any_callable_and_soft_labels():
    images, labels = batch()
    soft = nn.functional.one_hot(labels, CLASSES).float() * 0.9 + 0.1 / CLASSES
    one, two = two_views(FGSM(0.1), small_model(), images, soft)
    assert torch.equal(one, two)  # nothing random in it
    one, two = two_views(lambda model, x, y: x + y.view(-1, 1, 1, 1), small_model(), images, labels)
    assert torch.equal(one, images + labels.view(-1, 1, 1, 1))
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="as many images as it gets, 12, got 6"):
        two_views(lambda model, x, y: x[:6], small_model(), images, labels)


def test_two_views_have_targets_of_their_own():
    images, labels = torch.full((64, 3, 8, 10), 0.5), torch.zeros(64, dtype=torch.int64)
    one, two = two_views(FGSM(targeted=True, generator=generator()), small_model(), images, labels)
    same = (one == two).flatten(1).all(1)  # no random start: equal where the targets are
    assert 0.05 < same.float().mean() < 0.5  # 1 in 4


def test_attacks_are_values():
    assert PGD(steps=3) == PGD(steps=3)
    assert len({PGD(steps=3), PGD(steps=3), CWLinf(steps=3)}) == 2
    attack = PGD(steps=3)
    attack(small_model(), *batch())
    assert attack == PGD(steps=3)  # having been called is not a setting
    assert copy.deepcopy(attack) == attack
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.steps = 4


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_a_distributed_model_is_attacked_without_its_wrapper(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        images, labels = batch()
        wrapped = nn.parallel.DistributedDataParallel(small_model()).eval()
        wrapped.register_forward_pre_hook(lambda *_: pytest.fail("the wrapper's forward talks to the other ranks"))
        attack = PGD(0.05, 0.02, 2, generator=generator())
        assert torch.equal(
            attack(wrapped, images, labels), PGD(0.05, 0.02, 2, generator=generator())(small_model(), images, labels)
        )
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_starts_the_same_on_the_gpu():
    images, labels = batch()

    def start(device):
        attack = PGD(0.05, 1e-9, 1, generator=generator())
        return attack(small_model().to(device), images.to(device), labels.to(device)).cpu()

    assert torch.allclose(start("cpu"), start("cuda"), atol=1e-6)
