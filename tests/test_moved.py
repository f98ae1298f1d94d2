"""The names that modules had before: importable with a warning, and pickled objects of today load."""

import importlib
import subprocess
import sys

import pytest

from mixaug._moved import MOVED

# What users of 0.1 could have kept or imported, with the names of then.
NAMES = [
    ("mixaug.adautomix.draws", "MixDraw"), ("mixaug.evaluate.attack_presets", "preset_attacks"),
    ("mixaug.evaluate.capping", "cap_figures"), ("mixaug.evaluate.capping", "zero_gradient_share"),
    ("mixaug.evaluate.outcomes", "Outcomes"), ("mixaug.evaluate.outcomes", "MapExample"),
    ("mixaug.evaluate.perturbations", "PerturbationParams"), ("mixaug.mixing_sets._params", "FractalParams"),
    ("mixaug.mixing_sets._picks", "PickParams"), ("mixaug.train.adversary", "Adversary"),
    ("mixaug.train.models", "build_model"), ("mixaug.train.networks", "LeNet5"),
    ("mixaug.transforms.dynamic_mixcut_params", "DynamicMixCutParams"),
    ("mixaug.transforms.ipmix_params", "IPMixSettings"),
]  # fmt: skip


@pytest.mark.parametrize("old", MOVED)
def test_old_modules_import_with_a_warning(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved: import from {MOVED[old][0]}"):
        module = importlib.import_module(old)
    assert all(importlib.import_module(home) for home in MOVED[old])
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_this_name'"):
        module.nothing_of_this_name  # noqa: B018


@pytest.mark.filterwarnings("ignore:.* has moved:DeprecationWarning")
@pytest.mark.parametrize(("old", "name"), NAMES)
def test_old_names_are_the_new_objects(old, name):
    found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(found.__module__), name) and found.__module__ != old


def test_a_record_pickled_under_its_old_name_loads():
    """As a pickle of 0.1 names it: the class by module and name, its fields as a dictionary."""
    program = (
        "import pickle, torch, warnings\n"
        "from mixaug.transforms import DynamicMixCut\n"
        "record = DynamicMixCut(4).make_params([torch.zeros(3, 3, 8, 8)])['mixcut']\n"
        "new = pickle.dumps(record, protocol=0)\n"
        "old = new.replace(b'cmixaug.transforms.dynamic_mixcut\\n', b'cmixaug.transforms.dynamic_mixcut_params\\n')\n"
        "assert old != new\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    again = pickle.loads(old)\n"
        "assert type(again) is type(record) and torch.equal(again.boxes, record.boxes)\n"
        "print(sum('has moved' in str(each.message) for each in seen))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
