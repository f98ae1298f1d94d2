"""Transforms that draw: their generators' states in checkpoints and pipelines, and compiled calls of any batch size."""

import copy
import pickle

import pytest
import safetensors.torch
import torch
from adautomix_parts import mixer_of, net
from torch import nn
from torchvision.transforms import v2

from mixaug import DynamicMixCut, GeneratedMix, IPMix, MixingSet
from mixaug.attacks.attack import normal_like, signs_like, start_in_ball, uniform_like
from mixaug.losses import AdaptiveLoss
from mixaug.transforms import generator_states, load_generator_states


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ipmix(generator=None):
    pictures = MixingSet.from_tensor(torch.arange(4 * 3 * 32 * 32).reshape(4, 3, 32, 32).to(torch.uint8))
    return IPMix(mixing_set=pictures, generator=generator)


def mixcut(generator=None):
    return DynamicMixCut(4, generator=generator)


def generated(generator=None):
    made = mixer_of(net(), generator=None)
    return GeneratedMix(made.generator, made.teacher, 4, p=0.7, generator=generator)


TRANSFORMS = {"ipmix": ipmix, "mixcut": mixcut, "generated": generated}


def batch(size=6):
    return torch.rand(size, 3, 16, 16, generator=seeded(size)), torch.arange(size) % 4


def drawn(mix):
    params = mix.sample(batch()[0])
    return params.tensors() if hasattr(params, "tensors") else vars(params)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_only_a_generator_has_a_state_and_it_is_a_tensor(make, tmp_path):
    without, one = make(None), make(seeded(1))
    assert set(one.state_dict()) - set(without.state_dict()) == {"generator_state"}
    assert one.state_dict()["generator_state"].dtype == torch.uint8
    drawn(one)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(nn.Sequential(one).state_dict(), file)
    other = nn.Sequential(make(seeded(2)))
    other.load_state_dict(safetensors.torch.load_file(file), strict=True)
    assert same(drawn(one), drawn(other[0]))


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_states_load_strictly_with_and_without_a_generator_on_either_side(make):
    weights = make(None).state_dict()
    earlier = weights | {"_extra_state": {"generator": seeded(7).get_state()}}
    for state in (make(seeded(7)).state_dict(), earlier):
        make(None).load_state_dict(state, strict=True)
        there = make(seeded(3))
        there.load_state_dict(state, strict=True)
        assert same(drawn(there), drawn(make(seeded(7))))
    for state in (weights, weights | {"_extra_state": {}}):  # nothing of a generator: it stays as it was
        there = make(seeded(3))
        there.load_state_dict(state, strict=True)
        assert same(drawn(there), drawn(make(seeded(3))))


@pytest.mark.parametrize("value", [torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), "state"])
def test_a_state_that_is_none_is_refused_by_name(value):
    with pytest.raises(RuntimeError, match="generator_state is no state of the generator"):
        mixcut(seeded()).load_state_dict({"generator_state": value})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        mixcut(seeded()).load_state_dict({"generator_state": seeded().get_state(), "other": torch.zeros(1)})


def test_other_states_of_ours_are_tensors_and_those_of_earlier_versions_load(tmp_path):
    loss, mixer = AdaptiveLoss(), mixer_of(net())
    loss.update(0.9, 0.3)
    mixer(*batch())
    safetensors.torch.save_file(loss.state_dict(), tmp_path / "loss.safetensors")
    assert all(isinstance(value, torch.Tensor) for value in mixer.state_dict().values())
    for state in (loss.state_dict(), {"_extra_state": {"alpha": 0.25}}):
        other = AdaptiveLoss()
        other.load_state_dict(state)
        assert other.alpha == 0.25
    earlier = mixer.state_dict()
    earlier["_extra_state"] = {"calls": 1, "skipped": 0, "in_a_row": 0, "generator": earlier.pop("generator_state")}
    for state in (mixer.state_dict(), earlier):
        other = mixer_of(net(), generator=seeded(9))
        other.load_state_dict(state)
        assert other.get_extra_state().tolist() == [1, 0, 0]
        wanted, found = copy.deepcopy(mixer).sample(batch()[0]), other.sample(batch()[0])
        assert all(same(vars(one), vars(two)) for one, two in zip(wanted, found, strict=True))


PIPELINES = {
    "Compose": lambda *transforms: v2.Compose(list(transforms)),
    "nested": lambda first, last: v2.Compose([v2.RandomApply([v2.Compose([first])], p=1.0), v2.Identity(), last]),
    "ModuleList": lambda *transforms: v2.Compose([v2.RandomApply(nn.ModuleList(transforms), p=1.0)]),
    "Sequential": nn.Sequential,
    "list": lambda *transforms: list(transforms),
}


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_states_survive_in_pipelines(pipeline):
    first, last = ipmix(seeded(1)), ipmix(seeded(2))
    made = pipeline(first, last)
    drawn(first)
    states = generator_states(made)
    assert len(states) == 2 and all(name.endswith(".generator_state") for name in states)
    others = ipmix(seeded(5)), ipmix(seeded(6))
    load_generator_states(pipeline(*others), states)
    for way in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        assert {name: state.tolist() for name, state in generator_states(way(made)).items()} == {
            name: state.tolist() for name, state in states.items()
        }
    assert same(drawn(others[0]), drawn(first)) and same(drawn(others[1]), drawn(last))


def test_states_that_do_not_fit_the_pipeline_restore_nothing():
    one = v2.Compose([ipmix(seeded(1)), mixcut(seeded(2))])
    before = generator_states(one)
    two = v2.Compose([ipmix(seeded(3)), mixcut(None)])
    assert list(generator_states(two)) == ["transforms.0.generator_state"]
    with pytest.raises(ValueError, match=r"a state without its generator: transforms\.1\.generator_state"):
        load_generator_states(two, before)
    with pytest.raises(ValueError, match=r"none of that generator: transforms\.1\.generator_state"):
        load_generator_states(one, generator_states(two))
    assert all(torch.equal(state, before[name]) for name, state in generator_states(one).items())
    for call in (generator_states, lambda value: load_generator_states(value, {})):
        with pytest.raises(TypeError, match="transforms must be a transform or a list of transforms, got"):
            call("IPMix")
    assert generator_states(v2.Compose([v2.Identity()])) == generator_states([]) == {}


@pytest.mark.parametrize(
    ("name", "backend"),
    [("mixcut", "inductor"), ("ipmix", "inductor"), ("generated", "inductor")],  # torch.compile's own choice
)
def test_compiled_calls_take_a_smaller_last_batch(name, backend):
    """From the second size on a compiler makes the sizes symbols, with which torch refuses ``generator=None``."""
    torch.compiler.reset()
    mix = TRANSFORMS[name]()

    def call(images, labels):
        params = mix.sample(images)
        return params, mix.replay(images, params) if name == "ipmix" else mix.replay(images, labels, params)

    compiled = torch.compile(call, backend=backend)
    whole = torch.compile(mix, backend=backend)
    for size in (16, 16, 7, 1, 5):
        images, labels = batch(size)
        params, out = compiled(images, labels)
        wanted = mix.replay(images, params) if name == "ipmix" else mix.replay(images, labels, params)
        torch.testing.assert_close(out, wanted, atol=2e-6 if name != "ipmix" else 1 / 254, rtol=0)
        result = whole(images) if name == "ipmix" else whole(images, labels)[0]
        assert result.shape == images.shape and result.isfinite().all()


@pytest.mark.parametrize("draw", [uniform_like, normal_like, signs_like, lambda x, g: start_in_ball(x, 0.1, "l2", g)])
def test_the_draws_of_attacks_compile_with_a_smaller_last_batch(draw):
    torch.compiler.reset()
    compiled = torch.compile(lambda images: draw(images, None), backend="eager", fullgraph=True)
    for size in (8, 8, 3, 5):
        assert compiled(batch(size)[0]).shape == (size, 3, 16, 16)
