"""Each way to call ReLU: found, swapped, the same outputs; and what a swapped model must still be able to do."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from paths import HELPERS
from relu_models import IMAGES, ROWS, SMALL, Functions, Loop, Modes, Nested, Shared, Twice, caps_at_medians, outputs
from torch import Tensor, nn

from mixaug import DReLU, SReLU, replace_relu
from mixaug.nn import caps

pytestmark = pytest.mark.filterwarnings("ignore:outputs change:UserWarning")  # low caps, on purpose

HUGE = 1e30


def small(name):
    make, x, names, widths = SMALL[name]
    torch.manual_seed(0)
    return make(), x, names, widths


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_outputs_are_the_same(name, training):
    model, x, _, _ = small(name)
    original = copy.deepcopy(model)
    assert replace_relu(model, init=HUGE, example_input=x) is model
    found, wanted = outputs(model, x, training), outputs(original, x, training)
    assert len(found) == len(wanted)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("name", SMALL)
def test_every_call_site_has_its_own_layer_of_its_width(name):
    model, x, names, widths = small(name)
    report = replace_relu(model, example_input=x).relu_report
    assert (report.count, report.left) == (len(names), ())
    assert sorted(site.name for site in report.swapped) == sorted(names)
    layers = dict(caps(model))
    assert [layers[name].max_value.numel() for name in names] == widths
    assert [layers[name].site for name in names] == names


@pytest.mark.parametrize("name", SMALL)
def test_each_layer_acts_at_its_call(name):
    """With all other caps out of the way, a tiny cap changes the output, and the same ReLU alone is what it caps."""
    model, x, names, _ = small(name)
    replace_relu(model, init=HUGE, example_input=x)
    plain = [value for training in (False, True) for value in outputs(model, x, training)]
    for layer_name in names:
        layer = model.get_submodule(layer_name)
        calls: list[Tensor] = []
        handle = layer.register_forward_hook(lambda layer, args, out, calls=calls: calls.append(out.clone()))
        with torch.no_grad():
            layer.max_value.fill_(1e-3)
        found = [value for training in (False, True) for value in outputs(model, x, training)]
        with torch.no_grad():
            layer.max_value.fill_(HUGE)
        handle.remove()
        assert calls and all(out.max() <= 1e-3 for out in calls), layer_name
        assert not all(map(torch.equal, found, plain)), layer_name


@pytest.mark.parametrize("name", SMALL)
def test_one_step_moves_every_cap_that_was_reached(name):
    model, x, names, _ = small(name)
    replace_relu(model, init=HUGE, example_input=x)
    model.eval()
    reached = caps_at_medians(model, x)
    assert len(reached) == len(names) - (name == "modes")  # its auxiliary head runs in training alone
    before = {layer_name: layer.max_value.detach().clone() for layer_name, layer in caps(model)}
    loss = model(x)
    (loss * torch.randn(loss.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    torch.optim.SGD([layer.max_value for _, layer in caps(model)], lr=1.0).step()
    assert [n for n in reached if torch.equal(model.get_submodule(n).max_value, before[n])] == []


@pytest.mark.parametrize("name", [name for name in SMALL if name != "closure"])  # a local class cannot be pickled
def test_copies_are_independent_and_equal(name):
    model, x, names, _ = small(name)
    replace_relu(model, init=0.1, example_input=x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        pickle.loads(pickle.dumps(model, protocol=2)),
        torch.load(file, weights_only=False),
    ]
    wanted = outputs(model, x, True)
    for other in copies:
        assert type(other) is type(model)
        assert other.relu_report == model.relu_report
        assert all(map(torch.equal, outputs(other, x, True), wanted))
        with torch.no_grad():
            for layer_name in names:
                other.get_submodule(layer_name).max_value.fill_(HUGE)
        assert not all(map(torch.equal, outputs(other, x, True), wanted))
    assert all(map(torch.equal, outputs(model, x, True), wanted))


def test_a_pickle_loads_in_another_process(tmp_path):
    model, x, _, _ = small("shared")
    replace_relu(model, init=0.1, example_input=x).eval()
    torch.save((model, x, model(x)), tmp_path / "model.pt")
    code = "import sys, torch; m, x, y = torch.load(sys.argv[1], weights_only=False); print(torch.equal(m(x), y))"
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HELPERS, check=True)
    assert result.stdout == "True\n"


def test_a_pickle_of_other_source_is_refused():
    model, x, _, _ = small("shared")
    replace_relu(model, example_input=x)
    make, arguments, *_ = model.__reduce_ex__(2)
    with pytest.raises(ValueError, match=r"relu_models.Shared must have the source it was saved with"):
        make(*arguments[:2], "0" * 16, *arguments[3:])


def test_class_name_and_keys_stay():
    model, x, _, _ = small("functions")
    original = copy.deepcopy(model)
    replace_relu(model, example_input=x)
    assert isinstance(model, Functions)
    assert (type(model).__name__, type(model).__module__, type(model).__qualname__) == (
        "Functions",
        Functions.__module__,
        "Functions",
    )
    assert model.forward.__doc__ == "The docstring stays."
    new = [f"relu_calls.{i}.max_value" for i in range(12)]
    assert sorted(model.state_dict()) == sorted([*original.state_dict(), *new])
    assert all(torch.equal(model.state_dict()[key], value) for key, value in original.state_dict().items())
    assert "relu_calls" in model.forward.__code__.co_names
    again = replace_relu(copy.deepcopy(original), example_input=x)
    again.load_state_dict(model.state_dict())


def test_relu6_starts_at_most_at_six():
    model, x, _, _ = small("functions")
    replace_relu(model, init=HUGE, example_input=x)
    assert [layer.init for _, layer in caps(model)].count(6.0) == 1
    model, x, _, _ = small("functions")
    replace_relu(model, init=2.0, example_input=x)
    assert {layer.init for _, layer in caps(model)} == {2.0}


def test_compiled_without_a_graph_break():
    for name in ("shared", "functions", "loop", "modes"):
        model, x, _, _ = small(name)
        replace_relu(model, init=0.3, example_input=x).eval()
        with torch.no_grad():
            compiled = torch.compile(model, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(x.clone()), model(x.clone()))


def test_exported():
    for name in ("shared", "loop"):
        model, x, _, _ = small(name)
        replace_relu(model, init=0.3, example_input=x).eval()
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x.clone()), model(x.clone()))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_traced():
    model, x, _, _ = small("shared")
    replace_relu(model, SReLU, init=0.3, example_input=x).eval()
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x.clone()), model(x.clone()))


def test_replicas_of_data_parallel_have_their_own_parameters():
    model, x, names, _ = small("shared")
    replace_relu(model, init=0.1, example_input=x).eval()
    replica = model._replicate_for_data_parallel()
    sites = model.relu._replicate_for_data_parallel()
    replica._modules = {**model._modules, "relu": sites}
    for key, layer in model.relu.items():
        mine = layer._replicate_for_data_parallel()
        mine._parameters = {}
        mine.max_value = layer.max_value * 2  # as DataParallel does: a tensor with a graph, no parameter
        sites._modules[key] = mine
    replica(x).sum().backward()
    assert all(model.get_submodule(name).max_value.grad is not None for name in names)
    assert not torch.equal(replica(x), model(x))


def test_distributed(tmp_path):
    model, x, names, _ = small("shared")
    replace_relu(model, init=0.1, example_input=x)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            wrapped(x).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(model.get_submodule(name).max_value.grad is not None for name in names)


def test_a_checkpoint_runs_the_same_sites_again():
    model, x, names, _ = small("nested")
    replace_relu(model, init=0.1, example_input=x)
    model(x).sum().backward()
    found = {name: model.get_submodule(name).max_value.grad.clone() for name in names}
    for name in names:
        model.get_submodule(name).max_value.grad = None

    def forward(x: Tensor) -> Tensor:
        m = [model.get_submodule(name) for name in names]
        return m[1](model.fc2(m[0](model.fc1(x)))) + m[2](model.fc2(model.fc1(x)))

    forward(x).sum().backward()
    assert all(torch.equal(model.get_submodule(name).max_value.grad, grad) for name, grad in found.items())


def test_threads_and_broken_passes_do_not_mix_sites():
    model, x, _, _ = small("loop")
    replace_relu(model, init=HUGE, example_input=x).eval()
    with torch.no_grad():
        for i, (_, layer) in enumerate(caps(model)):
            layer.max_value.fill_(0.1 * (i + 1))
    wanted = model(x)
    broken = model.convs[1].register_forward_pre_hook(lambda *_: 1 / 0)  # in the second of three runs of a line
    with pytest.raises(ZeroDivisionError):
        model(x)
    broken.remove()
    wrong: list[int] = []

    def run() -> None:
        for _ in range(20):
            if not torch.equal(model(x), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(model(x), wanted)
    assert wrong == []


def test_parts_of_a_model_run_alone():
    model = nn.Sequential(Shared())
    replace_relu(model, init=0.1, example_input=IMAGES).eval()
    assert torch.equal(model[0](IMAGES), model(IMAGES))
    assert torch.equal(model[0].forward(IMAGES), model(IMAGES))


def test_hooks_move_on():
    model, x, _, _ = small("shared")
    seen: list[int] = []
    handle = model.relu.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    replace_relu(model, example_input=x).eval()
    seen.clear()
    model(x)
    assert seen == [4, 6, 8]
    handle.remove()
    model(x)
    assert seen == [4, 6, 8]


def test_modes_devices_and_dtypes_follow_the_model():
    model = Twice().double().train(False)
    replace_relu(model, example_input=ROWS.double())
    assert {layer.max_value.dtype for _, layer in caps(model)} == {torch.float64}
    assert not any(module.training for module in model.modules())
    half = replace_relu(Twice().bfloat16(), example_input=ROWS.bfloat16())
    assert {layer.max_value.dtype for _, layer in caps(half)} == {torch.float32}
    assert half(ROWS.bfloat16()).dtype == torch.bfloat16
    with torch.device("meta"):
        empty = Twice()
    assert {layer.max_value.device.type for _, layer in caps(replace_relu(empty))} == {"meta"}


def test_nothing_but_the_sites_changes():
    model, x, _, _ = small("modes")
    model.bn = nn.BatchNorm1d(3)
    model.cache = None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    replace_relu(model, example_input=x)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.cache is None
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert repr(model).startswith("Modes(\n  modes\n")


def test_data_decides_the_path():
    """What has no meta form runs with numbers, on a copy whose running statistics are its own."""

    class Data(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(3)
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.bn(x)
            return self.relu(x) if x.sum().item() < 1e9 else x

    model = Data()
    replace_relu(model, example_input=ROWS)
    assert isinstance(model.relu, DReLU)
    assert model.bn.num_batches_tracked == 0
    assert torch.equal(model.bn.running_mean, torch.zeros(3))


def test_transformers_take_the_slow_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    replace_relu(layer, init=1e-6, example_input=x)
    assert [site.name for site in layer.relu_report.swapped] == ["relu_calls.0"]
    assert layer.relu_calls["0"].max_value.shape == (16,)
    with torch.no_grad():
        capped = layer(x)
        layer.relu_calls["0"].max_value.fill_(HUGE)
        assert (layer(x) - capped).abs().max() > 1e-3
        y = layer.norm1(x + layer._sa_block(x, None, None))
        torch.testing.assert_close(layer(x), layer.norm2(y + layer.linear2(F.relu(layer.linear1(y)))))


def test_all_models_are_used():
    assert {Functions, Loop, Modes, Nested, Shared, Twice} <= {make for make, *_ in SMALL.values()}
