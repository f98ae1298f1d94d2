"""GeneratedMix: pixels and labels against the plain reference, kinds of input, draws, samples, loaders, bad input."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import re

import numpy as np
import pytest
import reference_adautomix as reference
import torch
from adautomix_parts import CLASSES, SIZE, draw_of, mixer_of, net, seeded, uneven
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from mixaug import AdAutoMix, GeneratedMix
from mixaug.adautomix import MixLaw
from mixaug.models import ModelSpec

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
LAYOUTS = ["contiguous", "channels_last", "sliced", "transposed", "expanded"]
LAW = MixLaw(3, per_image=True)


def mix_of(p: float = 1.0, smoothing: float = 0.0, law: MixLaw = LAW, seed: int | None = 1, **options) -> GeneratedMix:
    """With a teacher away from its start, whose features are large, and masks that use most of [0, 1]."""
    mixer = mixer_of(net())
    uneven(mixer.teacher)
    with torch.no_grad():
        mixer.generator.project.weight /= 8
    generator = None if seed is None else seeded(seed)
    return GeneratedMix(mixer.generator, mixer.teacher, CLASSES, law, p, smoothing, generator=generator, **options)


def images_of(count: int, dtype=torch.float32, layout: str = "contiguous", size: tuple[int, int] = SIZE) -> Tensor:
    h, w = size
    if layout == "sliced":
        return images_of(count, dtype, size=(h + 2, w + 5))[..., 1:-1, 3:-2]
    if layout == "transposed":
        return images_of(count, dtype, size=(w, h)).transpose(-2, -1)
    if layout == "expanded":
        return images_of(1, dtype, size=size).expand(count, 3, h, w)
    made = torch.rand(count, 3, h, w, generator=seeded(4))
    made = (made * 255).round().to(dtype) if dtype == torch.uint8 else made.to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else made


def labels_of(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def expected(mix: GeneratedMix, images: Tensor, draw) -> Tensor:
    """The mixtures in double, from the teacher's features on."""
    unit = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    features = mix.teacher.features(unit)
    project = mix.mask_generator.project
    masks = reference.masks(project.weight, project.bias, features[draw.index], draw.ratios, tuple(images.shape[-2:]))
    for row in torch.nonzero(draw.plain).flatten().tolist():
        masks[row] = draw.ratios[row].double()[:, None, None]
    return reference.mixture(images, draw.index, masks)


def rounding(dtype: torch.dtype) -> float:
    return {torch.uint8: 0.501, torch.float16: 1e-3, torch.bfloat16: 4e-3, torch.float32: 5e-6}[dtype]


# ---------------------------------------------------------------- pixels and labels


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference_pixel_by_pixel(dtype, layout):
    mix, images = mix_of(), images_of(4, dtype, layout, (7, 9))
    draw = draw_of(
        [[0, 2, 1], [1, 0, 3], [2, 1, 3], [3, 2, 0]],
        [[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.01, 0.5, 0.49], [1.0, 0.0, 0.0]],
        [False, False, True, True],
    )
    before = images.clone()
    mixed, targets = mix.replay(images, labels_of(4), draw)
    assert (mixed.dtype, mixed.shape) == (images.dtype, images.shape)
    difference = (mixed.double() - expected(mix, images, draw)).abs()
    assert difference.max() <= rounding(dtype)
    assert torch.equal(mixed[3], images[3]) and torch.equal(images, before)
    wanted = [[0.5, 0.2, 0.3, 0.0], [0.7, 0.2, 0.0, 0.1], [0.0, 0.5, 0.01, 0.49], [0.0, 0.0, 0.0, 1.0]]
    torch.testing.assert_close(targets, torch.tensor(wanted))


@pytest.mark.parametrize("size", [(12, 20), (5, 31), (33, 8), (32, 32), (4, 40)])
@pytest.mark.parametrize("n_mix", [2, 3, 4, 5])
def test_any_number_of_images_and_any_size(n_mix, size):
    mix, images = mix_of(law=MixLaw(n_mix)), images_of(5, size=size)
    draw = mix.sample(images)
    masks = mix.masks(images, draw)
    assert masks.shape == (5, n_mix, *size) and masks.dtype == torch.float32
    torch.testing.assert_close(masks.sum(1), torch.ones(5, *size))
    mixed, targets = mix.replay(images, labels_of(5), draw)
    torch.testing.assert_close(mixed, (masks[:, :, None] * images[draw.index]).sum(1), atol=2e-6, rtol=0)
    assert (targets > 0).sum() <= 5 * n_mix and targets.sum(1).allclose(torch.ones(5))


def test_bytes_are_rounded_to_the_nearest():
    """Plain thirds of 0, 1 and 1 are 0.667: a level is lost where bytes are cut off."""
    images = torch.tensor([0, 1, 1], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, *SIZE)
    draw = draw_of([[0, 1, 2]] * 3, [[1 / 3] * 3] * 3, [True] * 3)
    mixed, _ = mix_of().replay(images, labels_of(3), draw)
    assert mixed.eq(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_last_is_kept(dtype):
    mix = mix_of()
    for count in (1, 2, 4):
        mixed, _ = mix(images_of(count, dtype, "channels_last"), labels_of(count))
        assert mixed.is_contiguous(memory_format=torch.channels_last) and not mixed.is_contiguous()
        mixed, _ = mix(images_of(count, dtype), labels_of(count))
        assert mixed.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_kind_become_float32_rows(dtype):
    mix, images = mix_of(smoothing=0.2), images_of(4)
    draw = mix.sample(images)
    rows = torch.eye(CLASSES)[labels_of(4)]
    wanted = 0.8 * sum(draw.ratios[:, i, None] * rows[draw.index[:, i]] for i in range(3)) + 0.2 / CLASSES
    for labels in (labels_of(4).to(dtype), rows, rows.half()):
        targets = mix.replay(images, labels, draw)[1]
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets, wanted)


def test_labels_need_not_be_the_teacher_s():
    mixer = mixer_of(net())
    mix = GeneratedMix(mixer.generator, mixer.teacher, num_classes=100)
    assert mix(images_of(5), torch.tensor([99, 5, 0, 50, 7]))[1].shape == (5, 100)


def test_an_empty_batch_and_a_batch_of_one():
    mix = mix_of(smoothing=0.2)
    for dtype in DTYPES:
        mixed, targets = mix(images_of(4, dtype)[:0], labels_of(0))
        assert mixed.shape == (0, 3, *SIZE) and mixed.dtype == dtype and targets.shape == (0, CLASSES)
        images = images_of(1, dtype)
        mixed, targets = mix(images, torch.tensor([2]))
        assert torch.equal(mixed, images) and mixed.data_ptr() != images.data_ptr()
        torch.testing.assert_close(targets, torch.tensor([[0.05, 0.05, 0.85, 0.05]]))
    assert mix.masks(images_of(1), mix.sample(images_of(1))).eq(1).all()


def test_a_batch_smaller_than_n_mix_mixes_all_that_it_has():
    mix, images = mix_of(law=MixLaw(5, per_image=True)), images_of(3)
    draw = mix.sample(images)
    assert sorted(draw.index[0].tolist()) == [0, 1, 2]
    assert not torch.equal(mix.replay(images, labels_of(3), draw)[0], images)


def test_frames_of_a_clip_share_the_draw_and_have_their_own_masks():
    mix, clips = mix_of(), torch.rand(4, 2, 3, *SIZE, generator=seeded(2))
    draw = mix.sample(clips)
    mixed, targets = mix.replay(clips, labels_of(4), draw)
    frames = [mix.replay(clips[:, t], labels_of(4), draw)[0] for t in range(2)]
    torch.testing.assert_close(mixed, torch.stack(frames, 1))
    assert targets.shape == (4, CLASSES)


# ---------------------------------------------------------------- p


def test_p_gates_each_image_once():
    mix, images = mix_of(p=0.3), images_of(200, size=(6, 6))
    same = []
    for _ in range(10):
        mixed, targets = mix(images, torch.arange(200) % CLASSES)
        kept = mixed.eq(images).flatten(1).all(1)
        assert torch.equal(targets[kept], torch.eye(CLASSES)[labels_of(200)][kept])
        same.append(kept.float().mean())
    # 2,000 images: 0.7 with a standard deviation of 0.0102. Applied twice it would be 0.91.
    assert abs(float(torch.stack(same).mean()) - 0.7) < 0.05


def test_p_changes_no_other_draw():
    images = images_of(6)
    all_, some, none = (mix_of(p=p).sample(images) for p in (1.0, 0.5, 0.0))
    assert torch.equal(all_.index, some.index) and torch.equal(all_.index, none.index)
    kept = some.ratios[:, 0] == 1
    assert 0 < kept.sum() < 6 and torch.equal(some.ratios[~kept], all_.ratios[~kept])
    assert torch.equal(some.plain, all_.plain | kept) and none.plain.all() and none.ratios[:, 1:].eq(0).all()
    for dtype in DTYPES:
        images = images_of(6, dtype)
        mixed, targets = mix_of(p=0.0)(images, labels_of(6))
        assert torch.equal(mixed, images) and torch.equal(targets, torch.eye(CLASSES)[labels_of(6)])


def test_a_skipped_image_is_still_a_partner():
    images, mix = images_of(3), mix_of()
    draw = draw_of([[0, 1], [1, 2], [2, 0]], [[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]], [True, True, True])
    mixed, _ = mix.replay(images, labels_of(3), draw)
    torch.testing.assert_close(mixed[1], (images[1] + images[2]) / 2)


# ---------------------------------------------------------------- from a file


def test_from_a_checkpoint_is_from_its_parts(tmp_path):
    mixer = mixer_of(net(), n_mix=4, per_image=True, dirichlet=True, concentration=2.0)
    uneven(mixer.teacher)
    mixer.save(tmp_path / "generator.pt")
    read = GeneratedMix.from_checkpoint(tmp_path / "generator.pt", net(seed=8), generator=seeded(5), smoothing=0.1)
    made = GeneratedMix(mixer.generator, mixer.teacher, CLASSES, mixer.law, smoothing=0.1, generator=seeded(5))
    images, labels = images_of(6), labels_of(6)
    got, wanted = read(images, labels), made(images, labels)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])
    assert read.law == MixLaw(4, 2.0, True, True) and not torch.equal(got[0], images)
    changed = GeneratedMix.from_checkpoint(
        tmp_path / "generator.pt", net(), n_mix=2, p=0.5, num_classes=9, per_image=False, dirichlet=False,
        concentration=1.0,
    )  # fmt: skip
    assert changed.law == MixLaw(2) and changed.p == 0.5 and changed.num_classes == 9 and changed.smoothing == 0


def test_from_a_checkpoint_alone(tmp_path):
    spec = ModelSpec("lenet5", 3, 1, 16, (0.4,), (0.2,))
    AdAutoMix(spec.build(), 3, example_input=torch.rand(2, 1, 16, 16)).save(tmp_path / "generator.pt", spec=spec)
    mix = GeneratedMix.from_checkpoint(str(tmp_path / "generator.pt"))
    images, targets = mix(torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 2, 0]))
    assert images.shape == (4, 1, 16, 16) and targets.shape == (4, 3)


def test_from_a_checkpoint_of_a_model_of_the_user_s_own(tmp_path):
    mixer_of(net()).save(tmp_path / "generator.pt")
    with pytest.raises(ValueError, match="model must be given"):
        GeneratedMix.from_checkpoint(tmp_path / "generator.pt")
    with pytest.raises(ValueError, match="n_mix must be from 2 to 16, got 1"):
        GeneratedMix.from_checkpoint(tmp_path / "generator.pt", net(), n_mix=1)
    with pytest.raises(TypeError, match="n_mixx"):
        GeneratedMix.from_checkpoint(tmp_path / "generator.pt", net(), n_mixx=2)


# ---------------------------------------------------------------- frozen


def test_nothing_of_it_is_trained():
    mixer = mixer_of(net())
    mix = GeneratedMix(mixer.generator, mixer.teacher, CLASSES).train()
    assert not any(p.requires_grad for p in mix.parameters()) and not any(m.training for m in mix.modules())
    assert all(p.requires_grad for p in mixer.generator.parameters())  # the trainer's own is left as it was
    before = {name: value.clone() for name, value in mix.state_dict().items() if isinstance(value, Tensor)}
    mixed, targets = mix(images_of(6), labels_of(6))
    assert not mixed.requires_grad and not targets.requires_grad
    unfrozen = copy.deepcopy(mix).requires_grad_()  # as part of somebody's model
    assert not unfrozen(images_of(6), labels_of(6))[0].requires_grad
    after = mix.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()) and len(before) > 10
    with torch.no_grad():
        mixer.generator.project.weight += 1
    assert torch.equal(mix.mask_generator.project.weight, before["mask_generator.project.weight"])


def test_gradients_reach_the_images_alone():
    mix, images = mix_of(), images_of(4).requires_grad_()
    draw = mix.sample(images)
    mix.replay(images, labels_of(4), draw)[0][0].sum().backward()
    masks, rows = mix.masks(images, draw), draw.index[0].tolist()
    wanted = torch.zeros_like(images)
    for row, mask in zip(rows, masks[0], strict=True):
        wanted[row] += mask
    torch.testing.assert_close(images.grad, wanted)


def test_under_autocast_and_in_inference_mode():
    mix, images = mix_of(), images_of(5)
    draw = mix.sample(images)
    wanted = mix.replay(images, labels_of(5), draw)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mix.replay(images, labels_of(5), draw)[0]
        masks = mix.masks(images, draw)
    assert mixed.dtype == torch.float32 and masks.dtype == torch.float32
    torch.testing.assert_close(mixed, wanted, atol=0.05, rtol=0)
    with torch.inference_mode():
        assert torch.equal(mix.replay(images, labels_of(5), draw)[0], wanted)


def test_half_precision_weights_serve():
    mix, images = mix_of(), images_of(5)
    draw = mix.sample(images)
    wanted = mix.replay(images, labels_of(5), draw)[0]
    for dtype in (torch.bfloat16, torch.float64):
        got = copy.deepcopy(mix).to(dtype).replay(images, labels_of(5), draw)[0]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, atol=0.05 if dtype == torch.bfloat16 else 1e-6, rtol=0)


# ---------------------------------------------------------------- samples


def test_labels_and_images_are_found_in_any_sample():
    images, labels = images_of(4), labels_of(4)
    wanted = mix_of()(images, labels)
    got = mix_of()({"name": "x", "image": images, "Fine_Label": labels})
    assert got["name"] == "x" and torch.equal(got["image"], wanted[0]) and torch.equal(got["Fine_Label"], wanted[1])
    got = mix_of(labels_getter=lambda sample: sample[2])([images, "x", labels])
    assert got[1] == "x" and torch.equal(got[0], wanted[0]) and torch.equal(got[2], wanted[1])
    got = v2.Compose([v2.ToDtype(torch.float32, scale=True), mix_of()])(images, labels)
    assert torch.equal(got[0], wanted[0])


def test_tv_tensors_stay_what_they_are():
    images = tv_tensors.Image(images_of(4))
    mixed, targets = mix_of()(images, labels_of(4))
    assert type(mixed) is tv_tensors.Image and type(targets) is Tensor
    assert torch.equal(mixed.as_subclass(Tensor), mix_of()(images_of(4), labels_of(4))[0])


def test_several_images_of_a_sample_share_the_draw():
    first, second = tv_tensors.Image(images_of(4)), tv_tensors.Image(images_of(4).flip(3))
    mix = mix_of()
    got, labels, other = mix(first, labels_of(4), second)
    draw = mix_of().sample(first)
    assert torch.equal(got, mix.replay(first, labels_of(4), draw)[0])
    assert torch.equal(other, mix.replay(second, labels_of(4), draw)[0]) and labels.shape == (4, CLASSES)
    with pytest.raises(ValueError, match="must have one size"):
        mix(first, labels_of(4), tv_tensors.Image(images_of(4, size=(9, 9))))


# ---------------------------------------------------------------- randomness


def test_a_call_is_sample_then_replay_and_seeds_repeat_it():
    images, labels = images_of(5), labels_of(5)
    mix = mix_of(p=0.7)
    wanted = mix_of(p=0.7)(images, labels)
    draw = mix.sample(images)
    got = mix.replay(images, labels, draw)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])
    state = torch.get_rng_state()
    assert torch.equal(mix.replay(images, labels, draw)[0], got[0]) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mix.sample(images, generator=seeded(9)).ratios, mix.sample(images, generator=seeded(9)).ratios)
    assert not torch.equal(mix.sample(images).ratios, draw.ratios)


def test_without_a_generator_torch_s_own_serves():
    mix, images = mix_of(seed=None), images_of(5)
    torch.manual_seed(3)
    first = mix.sample(images)
    torch.manual_seed(3)
    assert torch.equal(mix.sample(images).ratios, first.ratios) and "generator_state" not in mix.state_dict()


def test_ratios_are_one_draw_for_the_batch_or_one_an_image():
    images = images_of(8)
    assert len(mix_of(law=MixLaw(3)).sample(images).ratios.unique(dim=0)) == 1
    assert len(mix_of(law=MixLaw(3, per_image=True)).sample(images).ratios.unique(dim=0)) == 8


def test_a_run_that_goes_on_draws_what_it_would_have_drawn():
    images, labels = images_of(5), labels_of(5)
    whole = mix_of(p=0.6)
    whole(images, labels)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    wanted = whole(images, labels)
    file.seek(0)
    again = mix_of(p=0.6, seed=99)
    again.load_state_dict(torch.load(file, weights_only=True))
    got = again(images, labels)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda mix: pickle.loads(pickle.dumps(mix))])
def test_copies_draw_the_same(copier):
    mix = mix_of()
    mix(images_of(4), labels_of(4))
    other = copier(mix)
    assert torch.equal(other(images_of(4), labels_of(4))[0], mix(images_of(4), labels_of(4))[0])
    assert not any(p.requires_grad for p in other.parameters())


def test_ranks_differ_with_a_given_generator(monkeypatch):
    first = mix_of().sample(images_of(5))
    monkeypatch.setenv("RANK", "1")
    assert not torch.equal(mix_of().sample(images_of(5)).ratios, first.ratios)


class Samples(Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.rand(3, *SIZE, generator=seeded(i)), i % CLASSES


class Collate:
    def __init__(self, mix: GeneratedMix) -> None:
        self.mix = mix

    def __call__(self, samples):
        return self.mix(default_collate(samples))


FORK = pytest.param("fork", marks=pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here"
))  # fmt: skip


@pytest.mark.parametrize("method", [FORK, pytest.param("spawn", marks=pytest.mark.slow)])
def test_in_workers_of_a_loader(method):
    """Workers and epochs differ, the same run repeats; masks are those of the main process."""

    def run() -> Tensor:
        torch.manual_seed(0)
        loader = DataLoader(
            Samples(), batch_size=4, num_workers=2 if method == "fork" else 1, multiprocessing_context=method,
            collate_fn=Collate(mix_of()), timeout=240,
            persistent_workers=method == "spawn",  # starting one of these takes seconds
        )  # fmt: skip
        return torch.stack([torch.cat([torch.cat([x.flatten(1), y], 1) for x, y in loader]) for _ in range(2)])

    first = run()
    assert first.shape == (2, 12, 3 * SIZE[0] * SIZE[1] + CLASSES)
    targets = first[..., -CLASSES:]
    assert targets.sum(-1).allclose(torch.ones(2, 12)) and targets.gt(0).sum(-1).float().mean() > 2
    assert not torch.equal(targets[0], targets[1]) and len(targets.flatten(0, 1).unique(dim=0)) > 20
    assert torch.equal(first, run())


# ---------------------------------------------------------------- bad input


def test_bad_arguments():
    mixer = mixer_of(net())
    good = {"mask_generator": mixer.generator, "teacher": mixer.teacher, "num_classes": CLASSES}
    for arguments, error, message in (
        ({"mask_generator": mixer.teacher}, TypeError, "mask_generator must be a MixGenerator, got Teacher"),
        ({"teacher": net()}, TypeError, "teacher must be a Teacher, got Net"),
        ({"law": 3}, TypeError, "law must be a MixLaw, got int"),
        ({"num_classes": 0}, ValueError, "num_classes must be from 1 to 10000000, got 0"),
        ({"p": 1.5}, ValueError, "p must be from 0 to 1, got 1.5"),
        ({"smoothing": -0.1}, ValueError, "smoothing must be from 0 to 1, got -0.1"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator or None, got int"),
        ({"labels_getter": "auto"}, TypeError, "labels_getter must be 'default' or a function of the sample, got"),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            GeneratedMix(**{**good, **arguments})


def test_bad_images():
    labels = labels_of(4)
    for images, error, message in (
        (images_of(4).double(), TypeError, "images must be uint8, float16, bfloat16 or float32, got torch.float64"),
        (images_of(4)[0], ValueError, "images must be (B, C, H, W) or clips (B, T, C, H, W), got shape (3, 12, 20)"),
        (images_of(4)[..., :0], ValueError, "images must have at least one pixel and channel"),
        (np.zeros((4, 3, 8, 8)), TypeError, "images must be a tensor of shape (B, C, H, W) in the sample, got sam"),
        (Image.new("RGB", (8, 8)), TypeError, "images must be a batch of tensors, got a PIL image: mix after the"),
        (images_of(4).to("meta"), ValueError, "images must be on the transform's device cpu, got meta: move one"),
        (images_of(4)[:, :2], ValueError, "images must be such as the generator's teacher takes, got shape (4, 2, 12"),
        (
            torch.full_like(images_of(4), float("nan")),
            ValueError,
            "images must be finite, got 2880 of 2880 values",
        ),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            mix_of(labels_getter=lambda sample: sample[1])(images, labels.to(getattr(images, "device", "cpu")))
    message = "GeneratedMix mixes images but not their Mask (sample[2]); leave it out"
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        mix_of()(tv_tensors.Image(images_of(4)), labels, tv_tensors.Mask(torch.zeros(4, 12, 20)))
    with pytest.raises(ValueError, match=r"feature_layer must give a map of places for images of 1x1 pixels"):
        mix_of()(images_of(4, size=(1, 1)), labels)
    with pytest.raises(ValueError, match="^" + re.escape("images must be (B, C, H, W), got shape (2, 2, 3, 4, 4)")):
        mix_of().masks(torch.rand(2, 2, 3, 4, 4), mix_of().sample(images_of(2)))


def test_images_that_look_normalised_are_warned_of_once():
    mix, images = mix_of(), images_of(4) * 4 - 2
    with pytest.warns(UserWarning, match="images must lie in \\[0, 1\\].*Normalised images\\?"):
        mix(images, labels_of(4))
    mix(images, labels_of(4))  # read at the first call only: a warning would be an error here
    mix = mix_of(check_values=True)
    mix(images_of(4), labels_of(4))
    with pytest.warns(UserWarning, match="Bytes as floats"):
        mix(images_of(4) * 255, labels_of(4))


def test_bad_labels():
    images = images_of(4)
    for labels, error, message in (
        (torch.tensor([0, 1, 2, 4]), ValueError, "labels must be in [0, 4), got 4"),
        (labels_of(3), ValueError, "labels must be 4, one for each image, got 3"),
        (torch.rand(4), TypeError, "labels: class indices (B,) must be integers"),
        (torch.full((4, 3), 1 / 3), ValueError, "labels must have num_classes=4 columns, got 3"),
        (torch.full((4, 4), 0.5), ValueError, "labels of probabilities must sum to 1 in each row, got a sum of 2"),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            mix_of()(images, labels)
    with pytest.raises(
        ValueError,
        match="^" + re.escape("labels must be given with the images, as (images, labels), got a tensor alone"),
    ):
        mix_of()(images)


def test_draws_that_do_not_fit():
    mix, images = mix_of(), images_of(4)
    for params, error, message in (
        (mix.sample(images_of(3)), ValueError, "params were drawn for 3 images, got images of shape (4, 3, 12, 20)"),
        ({}, TypeError, "params must be a MixDraw, got dict"),
        (draw_of([[0, 4]] * 4, [[0.5, 0.5]] * 4), ValueError, "params.index must be from 0 to 3, got 4 at [0, 1]"),
        (
            draw_of([[0, 1]] * 4, [[0.5, 0.6]] * 4),
            ValueError,
            "params.ratios must be 0 or more and sum to 1, got [0.5, 0.6",
        ),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            mix.replay(images, labels_of(4), params)


def test_repr_names_the_arguments():
    assert repr(mix_of(p=0.5)) == "GeneratedMix(num_classes=4, n_mix=3, p=0.5, smoothing=0.0, per_image=True)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu(dtype):
    mix, images = mix_of(), images_of(5, dtype, "channels_last")
    draw = mix.sample(images)
    wanted, targets = mix.replay(images, labels_of(5), draw)
    got, labels = mix.to("cuda").replay(images.cuda(), labels_of(5).cuda(), draw)
    assert got.device.type == "cuda" and got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.cpu().float(), wanted.float(), atol=1.0 if dtype == torch.uint8 else 1e-2, rtol=0)
    torch.testing.assert_close(labels.cpu(), targets)
