"""Reports for tests whose figures are known without a model: small, and with every part where asked for."""

from __future__ import annotations

from dataclasses import replace

import torch

from mixaug.evaluate import Report
from mixaug.evaluate.audit import Audit, Check
from mixaug.evaluate.corruptions import CORRUPTIONS
from mixaug.evaluate.intervals import Estimate
from mixaug.evaluate.measure import Measured
from mixaug.evaluate.measures.activation_maps import MapExample
from mixaug.evaluate.measures.anomaly import AnomalyScores
from mixaug.evaluate.measures.consistency import FlipExample, FlipRates
from mixaug.evaluate.measures.curve import AccuracyCurve
from mixaug.evaluate.measures.features import FeatureMap
from mixaug.evaluate.measures.occlusion import OcclusionCurve
from mixaug.evaluate.measures.surface import LossSurface
from mixaug.evaluate.results import AdversarialExample, CorruptedExample, Examples, Outcomes

EPS = 8 / 255
#: Text that must be escaped wherever it comes from.
NASTY = '<img src="https://x.example/a.png" onerror="x()"> & <b>'


def right(wrong, total, shift=0):
    """(total,) bool: the ``wrong`` images from ``shift`` on are wrong."""
    bits = torch.ones(total, dtype=torch.bool)
    bits[shift : shift + wrong] = False
    return bits


def picture(channels=3, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, side, side), dtype=torch.uint8, generator=generator)


def make_report(name="model", wrong=10, n=100, attacked_wrong=30, corrupted_wrong=20, names=CORRUPTIONS, shift=0):
    """A report whose errors are known: the first ``wrong`` images (from ``shift``) are wrong."""
    outcomes = Outcomes(
        correct=right(wrong, n, shift),
        confidence=torch.linspace(0.4, 1.0, n),
        corruption_index=torch.arange(50),
        corrupted={name: torch.stack([right(corrupted_wrong + s, 50, shift) for s in range(5)]) for name in names},
        attack_index={"pgd-20": torch.arange(40)},
        attacked={"pgd-20": right(attacked_wrong, 40, shift)},
        attack_change={"pgd-20": EPS},
        attack_confidence={"pgd-20": torch.full((40,), 0.75)},
    )
    settings = {
        "model": "Sequential",
        "parameters": 1234,
        "data_sha256": "d",
        "weights_sha256": "w" + name,
        "seed": 0,
        "preset": "cifar",
        "corruptions": list(names),
        "n_clean": n,
        "n_corruption": 50,
        "n_attack": {"pgd-20": 40},
        "eps": EPS,
        "attacks": {"pgd-20": {"kind": "PGD", "steps": 20}},
    }
    examples = Examples(
        [CorruptedExample(name, 3, picture(1), 0, 1, 0.5) for name in names],
        [AdversarialExample("pgd-20", picture(), 255 - picture(), 0, 0, 0.9, 1, 0.8)],
    )
    return Report(name, outcomes, settings, {"torch": "2"}, {"clean": 0.1}, ["<b>cat</b>", "dog"], examples)


def make_audit(masked=False, verdict=None, left=10):
    """An audit of 20 images: ``left`` of them are right under PGD, or 2 less under Square if masked."""
    share = Estimate(left / 20, 0.1, 0.9, 20)
    status = "fail" if masked else "pass"
    checks = (
        Check(
            "zero-gradients", "Images without any gradient", "warn", f"Some {NASTY}", {"none": share}, 0.02, "Athalye"
        ),
        Check(
            "black-box", "Black box stronger", status, "Square leaves less.", {"square": share}, 0.02, "Carlini", masked
        ),
        Check("transfer", "Transfer stronger", "not run", "There is no surrogate.", {}, 0.02, "Papernot"),
    )
    if verdict is None:
        verdict = "Masked: Square leaves 10.0% less." if masked else f"Not masked: PGD-20 leaves {5 * left}.0%."
    attacked = {"clean": right(2, 20), "pgd-ce": right(20 - left, 20), "square": right(20 - left + 2 * masked, 20)}
    return Audit(
        checks,
        verdict,
        EPS,
        attacked,
        {"pgd-ce": torch.full((20,), 0.5)},
        {"zero-ce": right(3, 20)},
        {"spsa": "no time"},
    )


def full_report(name="model", wrong=10, masked=False, attacks=("pgd-20", "cw-20", "square"), worse=0):
    """A report with every part; its image-by-image outcomes get worse with ``worse``, from 0 to 9."""
    report = make_report(name, wrong)
    index = torch.arange(40)
    outcomes = replace(
        report.outcomes,
        attack_index=dict.fromkeys(attacks, index),
        attacked={each: right(12 + worse + 2 * place, 40, shift=place) for place, each in enumerate(attacks)},
        attack_change=dict.fromkeys(attacks, EPS),
        attack_confidence={each: torch.linspace(0.2, 0.9, 40) for each in attacks},
    )
    offsets = torch.linspace(-0.1, 0.1, 5)
    surfaces = [
        LossSurface(torch.outer(offsets, offsets) * 10 + (1 + worse) * offsets.abs(), offsets, 0.1, 1, at)
        for at in (3, 5)
    ]
    features = FeatureMap(
        torch.randn(30, 2, generator=torch.Generator().manual_seed(0)),
        torch.arange(30) % 2,
        torch.arange(30) % 2,
        "fc",
        64,
        5.0,
    )
    examples = replace(
        report.examples,
        adversarial=[AdversarialExample(each, picture(), picture(seed=1), 0, 0, 0.9, 1, 0.8) for each in attacks],
    )
    rates = FlipRates(
        {"rotate": torch.arange(12) % 4 + worse, "gaussian_noise": torch.arange(12) % 3},
        examples=(
            FlipExample(
                "rotate", 1, torch.tensor([1] * 15 + [0] * 16), (0, 15, 30), picture(1)[None].repeat(3, 1, 1, 1)
            ),
        ),
    )
    hidden = torch.stack([right(k + worse, 20) for k in (2, 5, 10)])
    measured = {
        "lipschitz": Measured(torch.arange(10), torch.arange(10.0) + 5 + worse),
        "curve": AccuracyCurve(
            torch.arange(30),
            outcomes.correct[:30],
            {EPS / 2: right(10 + worse, 30), EPS: right(15 + worse, 30), 4 * EPS: right(30, 30)},
        ),
        "flips": Measured(torch.arange(12), rates),
        "occlusion": Measured(torch.arange(20), OcclusionCurve((0.0, 0.4, 0.8), hidden, 2, 0.5)),
        "ood": AnomalyScores(outcomes.confidence, torch.linspace(0.3, 0.8, 20) + 0.01 * worse),
        "surface": surfaces,
        "maps": [MapExample(picture(), picture(1)[0], picture(1, seed=2)[0], 0, 1, 0.6)],
        "features": features,
    }
    kinds = {"pgd-20": "PGD", "cw-20": "CWLinf", "square": "Square"}
    settings = report.settings | {
        "n_attack": dict.fromkeys(attacks, 40),
        "attacks": {each: {"kind": kinds.get(each, "Own"), "steps": 20} for each in attacks},
        "out_of_distribution_sha256": "o",
    }
    return replace(
        report,
        outcomes=outcomes,
        examples=examples,
        measured=measured,
        settings=settings,
        audit=make_audit(masked),
        left_out={"n_other": f"no gradient {NASTY}"},
        notices=[f"The model expects normalised input {NASTY}"],
    )
