"""A trained generator as a file: whole or refused with a reason, and never code."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest
import torch
from adautomix_parts import CLASSES, SIZE, Net, batch, mixer_of, net, seeded, uneven
from torch import nn

from mixaug import AdAutoMix
from mixaug.adautomix import MixLaw, read_generator, sample_mix, save_generator
from mixaug.adautomix.checkpoint import FORMAT, KIND
from mixaug.models import ModelSpec
from mixaug.train.checkpoint import describe_model, write_checkpoint

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def saved(tmp_path):
    """A mixer whose teacher is not what its model is, and its file."""
    mixer = mixer_of(net(), n_mix=3, concentration=2.0, per_image=True, dirichlet=True)
    uneven(mixer.teacher)
    mixer.save(tmp_path / "generator.pt", classes=NAMES)
    return tmp_path / "generator.pt", mixer


def rewrite(path: Path, **changes: object) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in {**content, **changes}.items() if value is not ...}, path)


def test_generator_and_teacher_come_back_with_a_model_of_the_user_s_own(saved):
    path, mixer = saved
    other = net(seed=5)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    state = torch.get_rng_state()
    generator, teacher = read_generator(path).build(other)
    assert torch.equal(torch.get_rng_state(), state)
    images, _ = batch()
    features, logits = mixer.teacher.look(images)
    draw = sample_mix(6, MixLaw(3), seeded(3))
    assert torch.equal(teacher.look(images)[0], features) and torch.equal(teacher.look(images)[1], logits)
    masks = generator(features, draw.ratios, SIZE, draw.index)
    assert torch.equal(masks, mixer.generator(features, draw.ratios, SIZE, draw.index)) and masks.std() > 0.01
    assert other.training and all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert not any(p.requires_grad for module in (generator, teacher) for p in module.parameters())
    assert not any(module.training for part in (generator, teacher) for module in part.modules())


def test_what_is_known_of_it(saved):
    path, mixer = saved
    read = read_generator(str(path))
    assert read.law == MixLaw(3, 2.0, True, True) == mixer.law
    assert (read.channels, read.feature_layer, read.num_classes) == (8, "stage2", CLASSES)
    assert read.classes == tuple(NAMES) and read.spec is None and read.path == str(path)
    assert set(read.versions) == {"mixaug", "torch"} and read.versions["torch"] == torch.__version__


def test_a_model_of_mixaug_is_built_from_the_file_alone(tmp_path):
    spec = ModelSpec("lenet5", 3, 1, 16, (0.4,), (0.2,))
    mixer = AdAutoMix(spec.build(), 3, n_mix=2, example_input=torch.rand(2, 1, 16, 16))
    uneven(mixer.teacher)
    save_generator(tmp_path / "new" / "generator.pt", mixer, spec=spec)
    read = read_generator(tmp_path / "new" / "generator.pt")
    state = torch.get_rng_state()
    generator, teacher = read.build()
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.rand(4, 1, 16, 16)
    assert read.spec == spec and read.classes is None
    assert torch.equal(teacher(images), mixer.teacher(images))
    assert torch.equal(generator.project.weight, mixer.generator.project.weight)


def test_a_compiled_model_serves_too(saved):
    path, mixer = saved
    images, _ = batch()
    _, teacher = read_generator(path).build(torch.compile(net(seed=9)))
    assert torch.equal(teacher(images), mixer.teacher(images))


def test_the_file_does_not_depend_on_the_memory_format(tmp_path):
    mixer = mixer_of(net().to(memory_format=torch.channels_last))
    mixer.save(tmp_path / "a.pt")
    read = read_generator(tmp_path / "a.pt")
    assert all(value.is_contiguous() for value in [*read.teacher.values(), *read.generator.values()])
    assert not any(value.requires_grad for value in [*read.teacher.values(), *read.generator.values()])


def test_files_hold_tensors_and_plain_values_and_are_marked(saved):
    content = torch.load(saved[0], weights_only=True)
    assert content["kind"] == KIND == "adautomix-generator" and content["format"] == FORMAT


def test_written_whole_or_not_at_all(saved, monkeypatch):
    path, mixer = saved
    before = path.read_bytes()

    def broken(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        mixer.save(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no generator at {tmp_path / 'a.pt'}"):
        read_generator(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a generator must be a file such as .*generator\.pt, got the folder"):
        read_generator(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated_files_are_refused(saved, keep):
    path, _ = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=f"the generator {re.escape(str(path))} is damaged"):
        read_generator(path)


def test_a_flipped_bit_of_a_weight_is_refused(saved):
    path, mixer = saved
    content = bytearray(path.read_bytes())
    at = content.find(mixer.generator.project.weight.detach().numpy().tobytes())
    assert at > 0
    content[at + 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not match its checksum"):
        read_generator(path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"kind": KIND, "format": FORMAT, "generator": Evil()}, "a.pt")
    with pytest.raises(ValueError, match="was not written by mixaug"):
        read_generator("a.pt")
    assert not Path("owned").exists()


def test_other_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("x", "y")
    for name in ("a.pt", "b.pt", "c.pt"):
        with pytest.raises(ValueError, match="was not written by mixaug"):
            read_generator(tmp_path / name)


def test_the_checkpoint_of_a_model_says_where_the_generator_is(tmp_path):
    spec = ModelSpec("lenet5", 3, 1, 16, (0.4,), (0.2,))
    write_checkpoint(tmp_path / "best.pt", describe_model(spec, spec.build(), data={"name": "x"}, settings={}))
    with pytest.raises(ValueError) as error:
        read_generator(tmp_path / "best.pt")
    assert str(error.value) == (
        f"{tmp_path / 'best.pt'} is the checkpoint of a model: the generator of a run with adautomix is in "
        f"{tmp_path / 'generator.pt'} beside it"
    )


def test_a_newer_format_is_refused_as_such(saved):
    rewrite(saved[0], format=2, law=...)
    with pytest.raises(ValueError, match="has format 2, this version of mixaug reads 1"):
        read_generator(saved[0])


@pytest.mark.parametrize(
    "changes",
    [{"teacher": ...}, {"law": {"n_mix": 1}}, {"law": {"n": 3}}, {"law": None}, {"spec": {"name": "x"}}],
    ids=["no teacher", "n_mix 1", "unknown name", "no law", "half a spec"],
)
def test_content_that_is_not_a_generator_s(saved, changes):
    rewrite(saved[0], **changes)
    with pytest.raises(ValueError, match=f"the generator {re.escape(str(saved[0]))} .*was not written by mixaug"):
        read_generator(saved[0])


def test_a_model_is_needed_and_has_to_fit(saved):
    read = read_generator(saved[0])
    with pytest.raises(ValueError, match=r"model must be given: .* of the user's own \(features of 'stage2', 4 classe"):
        read.build()
    with pytest.raises(TypeError, match=r"model must be an nn\.Module or None, got str"):
        read.build("resnet18")
    with pytest.raises(ValueError, match=r"the weights of the generator .* do not fit its model: .*Missing key"):
        read.build(nn.Sequential(nn.Conv2d(3, 3, 3)))
    wider = Net()
    wider.head = nn.Linear(8, CLASSES + 1)
    with pytest.raises(ValueError, match=r"do not fit its model: .*size mismatch for head"):
        read.build(wider)


def test_weights_of_other_shapes_or_names(saved):
    read = read_generator(saved[0])
    rewrite(saved[0], channels=6)
    with pytest.raises(ValueError, match="do not fit its model"):
        read_generator(saved[0]).build(net())
    rewrite(saved[0], channels=8, feature_layer="stage9")
    with pytest.raises(ValueError, match=r"do not fit its model: .*stage9"):
        read_generator(saved[0]).build(net())
    assert read.build(net())[0].channels == 8


class Extra(Net):
    def get_extra_state(self):
        return {"more": 1}

    def set_extra_state(self, state):
        pass


def test_bad_arguments_of_saving(saved, tmp_path):
    path, mixer = saved
    before, spec = path.read_bytes(), ModelSpec("lenet5", 5, 1, 16, (0.4,), (0.2,))
    for arguments, error, message in (
        ({"classes": NAMES[:3]}, ValueError, "classes must be 4 names, one for each class, got 3"),
        ({"classes": "abcd"}, TypeError, "classes must be names, got 'abcd'"),
        ({"classes": [0, 1, 2, 3]}, TypeError, r"classes must be names, got \[0, 1, 2, 3\]"),
        ({"spec": spec}, ValueError, "spec must be of the mixer's 4 classes, got 5"),
        ({"spec": spec.to_dict()}, TypeError, "spec must be a ModelSpec or None, got dict"),
    ):
        with pytest.raises(error, match=f"^{message}$"):
            mixer.save(path, **arguments)
    with pytest.raises(TypeError, match="mixer must be an AdAutoMix, got MixGenerator"):
        save_generator(path, mixer.generator)
    with pytest.raises(TypeError, match="teacher must have a state of tensors to be saved, got dict at '_extra_state'"):
        mixer_of(Extra()).save(path)
    assert path.read_bytes() == before
