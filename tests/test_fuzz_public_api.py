"""A short run of ``fuzz_public_api.py``: every call of the public API ends in a result or in an error that helps."""

import random

from fuzz_public_api import fuzz, targets


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
