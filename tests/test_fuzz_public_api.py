"""A short run of ``fuzz_public_api.py``: every call of the public API ends in a result or in an error that helps."""

import ast
import random

from fuzz_public_api import fuzz, targets
from paths import ROOT

PACKAGE = ROOT / "mixaug"
#: What they check is their own file's or command line's, which holds Python's own numbers or is refused.
READERS = {
    "adautomix/checkpoint.py", "train/checkpoint.py", "train/descent.py", "train/loop.py", "models/__init__.py",
    "models/activation.py", "commands/mixing_set.py", "ops/ipmix.py",
}  # fmt: skip


def test_every_call_ends_in_a_result_or_an_error_that_names_an_argument():
    counts = fuzz(1500, seed=1)
    assert not counts.unexplained, "\n".join(counts.unexplained)
    # Neither all right nor all wrong: both ways were tried.
    assert counts.results > 300 and sum(counts.answers.values()) > 300


def test_right_arguments_are_taken():
    for seed in range(3):
        r = random.Random(seed)
        for target in targets().values():
            target.call(**{name: make(r) for name, make in target.arguments.items()})


def test_what_a_check_of_a_number_gives_back_is_what_is_used():
    """NumPy's numbers and tensors of one are taken: not what Python's own round() and range() take."""
    dropped = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).as_posix() not in READERS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") in ("check_int", "check_number", "check_length", "check_seed")
    ]  # fmt: skip
    assert not dropped
