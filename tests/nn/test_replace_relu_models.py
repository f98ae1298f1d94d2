"""replace_relu on torchvision's and timm's classifiers: a fast part of benchmarks/sweep_relu.py."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torchvision
from relu_models import outputs
from torch import nn

from mixaug import replace_relu
from mixaug.nn import caps, param_groups, set_caps

pytestmark = pytest.mark.filterwarnings("ignore:outputs change:UserWarning")  # low caps, on purpose

HUGE = 1e30
#: name -> (image side, call sites, outputs in training mode)
TORCHVISION = {
    "densenet121": (64, 121, 1),
    "googlenet": (64, 61, 3),
    "inception_v3": (299, 96, 2),
    "mnasnet0_5": (64, 35, 1),
    "mobilenet_v2": (64, 35, 1),
    "mobilenet_v3_small": (64, 14, 1),
    "regnet_y_400mf": (64, 65, 1),
    "resnet18": (64, 17, 1),
    "resnet50": (64, 49, 1),
    "shufflenet_v2_x0_5": (64, 37, 1),
    "squeezenet1_1": (64, 26, 1),
    "vgg11": (32, 10, 1),
}
TIMM = {
    "legacy_seresnet18": (64, 33),
    "mobilevitv2_050": (64, 9),
    "res2net50_26w_4s": (64, 81),
    "tf_mobilenetv3_small_minimal_100": (64, 24),
}


def build(name):
    more = {"init_weights": False} if name in ("googlenet", "inception_v3", "vgg11") else {}
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, num_classes=10, **more)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    side, sites, heads = TORCHVISION[name]
    model = build(name)
    original = copy.deepcopy(model)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    replace_relu(model, init=HUGE, example_input=x)
    assert isinstance(model, type(original))
    assert (model.relu_report.count, model.relu_report.left) == (sites, ())
    assert len(list(caps(model))) == sites
    assert not any(isinstance(module, (nn.ReLU, nn.ReLU6)) for module in model.modules())
    assert set(original.state_dict()) < set(model.state_dict())
    with torch.no_grad():
        for training, count in ((False, 1), (True, heads)):
            found, wanted = outputs(model, x, training), outputs(original, x, training)
            assert len(found) == len(wanted) == count
            assert all(map(torch.equal, found, wanted))
    moved = dict(model.named_buffers())
    assert all(torch.equal(moved[key], buffer) for key, buffer in original.named_buffers())


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.filterwarnings("ignore")
def test_timm(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
    side, sites = TIMM[name]
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10)
    original = copy.deepcopy(model)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    replace_relu(model, init=HUGE, example_input=x)
    assert (model.relu_report.count, model.relu_report.left) == (sites, ())
    with torch.no_grad():
        for training in (False, True):
            assert all(map(torch.equal, outputs(model, x, training), outputs(original, x, training)))
        model.eval(), original.eval()
        assert torch.equal(model.forward_features(x), original.forward_features(x))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)


def test_gradients_are_the_same():
    model = build("resnet18")
    original = copy.deepcopy(model)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    replace_relu(model, init=HUGE, example_input=x)
    for network in (model, original):
        network(x).square().sum().backward()
    found = dict(model.named_parameters())
    assert all(torch.equal(found[name].grad, value.grad) for name, value in original.named_parameters())
    assert all(not layer.max_value.grad.any() for _, layer in caps(model))


def test_a_training_step_moves_every_site():
    """Penalty 0, each cap at the median of its positive pre-activations."""
    model = build("resnet18")
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    replace_relu(model, example_input=x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics are those of this batch: both modes see the same
    model(x)
    set_caps(model, x, 0.5)
    before = {name: layer.max_value.detach().clone() for name, layer in caps(model)}
    assert all((value < 100).any() for value in before.values())  # every site was reached
    optimiser = torch.optim.SGD(param_groups(model, weight_decay=1e-4), lr=0.1)
    nn.functional.cross_entropy(model(x), torch.arange(8)).backward()
    optimiser.step()
    still = [name for name, layer in caps(model) if torch.equal(layer.max_value, before[name])]
    assert len(before) == 17
    assert still == []


def test_a_frozen_pass_of_a_swapped_model_is_compiled():
    torch.manual_seed(0)
    block = torchvision.models.resnet.Bottleneck(16, 4)
    replace_relu(block, init=0.2, example_input=torch.zeros(1, 16, 8, 8)).eval()
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), block(x))
    assert [site.channels for site in block.relu_report.swapped] == [4, 4, 16]
