"""Statistical pictures: against plain NumPy, the same everywhere, with the statistics they are made for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import fields, replace

import measure_picture_statistics as statistics
import numpy as np
import pytest
import reference_spectrum
import torch
from PIL import Image

from mixaug.mixing_sets import iter_pictures, make_pictures, richness
from mixaug.mixing_sets import spectrum as measured
from mixaug.mixing_sets.spectrum import KINDS, SOURCE, SpectrumParams, render_spectrum, sample_spectrum

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
needs_jit = pytest.mark.skipif(not JIT, reason="many pixels need compiled code")
COUNT = 96 if JIT else 12
SIZES = (8, 9, 41, 64, 97) if JIT else (8, 9)


@pytest.fixture(scope="module")
def params() -> SpectrumParams:
    return sample_spectrum(COUNT, seed=11)


def digest(pictures: torch.Tensor) -> str:
    return hashlib.sha256(pictures.numpy().tobytes()).hexdigest()


# --- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of hashes that are not compiled
@pytest.mark.parametrize("kind", KINDS)
def test_equals_numpy_reference(kind):
    count = 8 if JIT else 1
    chosen = sample_spectrum(count, seed=2, kinds=kind)
    different = total = 0
    for size in SIZES:
        made = render_spectrum(chosen, size).numpy().astype(int)
        for i in range(count):
            gap = np.abs(reference_spectrum.render(chosen, i, size) - made[i])
            assert gap.max() <= 1, (size, i)
            different += (gap > 0).sum()
            total += gap.size
    assert different <= 1e-3 * total


@needs_jit
def test_known_pixels():
    """The picture of a seed is a promise. A level each, for processors whose transforms round in another order."""
    pictures = make_pictures("spectrum", 4, size=64, seed=0)
    assert np.abs(pictures[:, :, 10, 20].numpy().astype(int) - KNOWN).max() <= 1


KNOWN = [[86, 93, 71], [190, 196, 204], [194, 163, 93], [80, 97, 126]]


@needs_jit
@pytest.mark.parametrize("kind", KINDS)
def test_larger_picture_is_the_same_with_finer_detail(kind):
    chosen = sample_spectrum(8, seed=4, kinds=kind)
    small = render_spectrum(chosen, 32).to(torch.float64)
    large = torch.nn.functional.avg_pool2d(render_spectrum(chosen, 128).to(torch.float64), 4)
    other = torch.nn.functional.avg_pool2d(render_spectrum(chosen, 96).to(torch.float64), 3)
    for picture, reduced, odd in zip(small, large, other, strict=True):
        spread = picture.std()
        assert (picture - reduced).square().mean().sqrt() < 0.4 * spread
        assert (picture - odd).square().mean().sqrt() < 0.4 * spread
        shifted = picture.roll(1, 2)  # half a pixel of offset would show
        assert (picture - reduced).square().mean() < (shifted - reduced).square().mean()


@needs_jit
def test_spectrum_has_exactly_the_asked_magnitude():
    """Grey, without clipping or curves: the transform of the pixels is 1 / (|u|^a + |v|^b), random in phase only."""
    chosen = sample_spectrum(1, seed=3, kinds="spectrum")
    size, axis, (a, b) = 64, chosen.axis[0].numpy(), chosen.slopes[0].tolist()
    chosen = replace(
        chosen, mean=torch.full((1, 3), 127.5), mixing=20.0 * torch.eye(3, dtype=torch.float64)[None]
    )  # a standard deviation of 20 levels: nothing is clipped
    transform = np.fft.fft2(render_spectrum(chosen, size)[0].numpy())
    f = np.fft.fftfreq(size, 1.0 / size)
    fx, fy = np.meshgrid(f, f)
    wanted = 1.0 / (np.abs(fx * axis[0] + fy * axis[1]) ** a + np.abs(fy * axis[0] - fx * axis[1]) ** b + 1e-9)
    wanted = wanted * np.sinc(fx / size) * np.sinc(fy / size)
    low = (np.hypot(fx, fy) > 0.5) & (np.hypot(fx, fy) < 8)  # higher ones are nearer the rounding to whole levels
    ratio = np.log(np.abs(transform[:, low]) / wanted[low])
    assert ratio.std() < 0.05  # of the table between quarters of a cycle, and the rounding
    angles = np.exp(1j * np.angle(transform[:, low & (fx > 0)]))
    assert np.abs(angles.mean(1)).max() < 0.25  # phases all around,
    assert abs((angles[0] * np.conj(angles[1])).mean()) < 0.25  # each channel with its own


# --- statistics of photographs --------------------------------------------------------------------------------------


@needs_jit
def test_sub_bands_are_like_those_of_photographs():
    """Generalised-Gaussian exponents per octave: 2 for random phases, about the measured ones for wavelets."""
    found = {}
    for kind in ("spectrum", "wavelet"):
        pictures = render_spectrum(sample_spectrum(32, seed=1, kinds=kind), 128).permute(0, 2, 3, 1)
        found[kind] = statistics.measure(iter(pictures.to(torch.float64).numpy()), 128)
    assert np.allclose(found["spectrum"]["exponent"][1:], 2.0, atol=0.3)
    assert np.allclose(found["wavelet"]["exponent"][1:], measured.BAND_EXPONENTS, atol=0.2)
    assert (np.diff(found["wavelet"]["exponent"]) < 0).all()  # heavier from octave to octave
    assert abs(found["wavelet"]["slope_mean"][0] - measured.SLOPE_MEAN) < measured.SLOPE_SPREAD


@needs_jit
def test_colours_are_those_of_colourful_photographs():
    """Means, contrast and opponent axes of the pictures follow the measured distribution where it is colourful."""
    chosen = sample_spectrum(200, seed=6, kinds="spectrum")
    vectors = np.array([statistics.colour_vector(p) for p in render_spectrum(chosen, 64).permute(0, 2, 3, 1).numpy()])
    assert abs(vectors[:, 0].mean() - measured.COLOUR_MEAN[0]) < 15
    assert 35 < vectors[:, 0].std() < 60
    assert abs(vectors[:, 3].mean() - measured.COLOUR_MEAN[3]) < 0.15
    assert vectors[:, 4].min() > 2.0  # none is grey
    assert (vectors[:, 3] > vectors[:, 4]).mean() > 0.9 and (vectors[:, 4] > vectors[:, 5]).mean() > 0.85
    asked = torch.linalg.cholesky(torch.tensor(measured.OPPONENT) @ (chosen.mixing @ chosen.mixing.mT)
                                  @ torch.tensor(measured.OPPONENT).T)  # fmt: skip
    assert np.corrcoef(vectors[:, 4], asked[:, 1, 1].log())[0, 1] > 0.8


def test_measuring_tells_colours_slopes_and_tails(tmp_path, capsys):
    rng = np.random.default_rng(0)
    size = 64
    _, _, radius = statistics.frequencies(size)
    base = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) / np.maximum(radius, 1.0) ** 1.5).real
    picture = 120 + 30 * ((base - base.mean()) / base.std())[..., None] * statistics.OPPONENT[0]
    picture = picture + 5 * rng.normal(size=(size, size, 1)) * statistics.OPPONENT[1]
    vector = statistics.colour_vector(picture)
    assert vector[0] == pytest.approx(120 * 3**0.5, abs=1) and abs(vector[1]) < 1
    assert np.exp(vector[3:5]) == pytest.approx([30, 5], rel=0.1)
    assert statistics.slopes(statistics.transform(picture))[0] == pytest.approx(1.5, abs=0.15)
    assert statistics.marginal(rng.normal(size=100_000)) == pytest.approx((3, 2), abs=0.1)
    assert statistics.marginal(rng.laplace(size=100_000)) == pytest.approx((6, 1), abs=0.3)
    for k in range(3):
        Image.fromarray((picture + 20 * k).clip(0, 255).astype(np.uint8)).save(tmp_path / f"{k}.png")
    Image.new("L", (40, 40)).save(tmp_path / "grey.png")
    statistics.main([str(tmp_path), "--size", "32"])
    assert "colour_factor" in capsys.readouterr().out
    with pytest.raises(ValueError, match="at least 2 colour pictures are needed, got 0"):
        statistics.measure(statistics.read_pictures([tmp_path / "grey.png"]))
    with pytest.raises(SystemExit):
        statistics.main([str(tmp_path / "none")])
    assert "FOLDER must be a folder of pictures" in capsys.readouterr().err


# --- independence and repetition ------------------------------------------------------------------------------------


def test_picture_depends_on_seed_and_index_only(params):
    few = sample_spectrum(2, seed=11)
    later = sample_spectrum(1, seed=11, start=1, threads=2)
    for f in fields(SpectrumParams):
        assert torch.equal(getattr(params, f.name)[:2], getattr(few, f.name)), f.name
        assert torch.equal(getattr(params, f.name)[1:2], getattr(later, f.name)), f.name


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_threads_chunks_and_count_do_not_matter():
    count, size = (9, 48) if JIT else (3, 8)
    one = make_pictures("spectrum", count, size, seed=3, threads=1)
    assert digest(one) == digest(make_pictures("spectrum", count, size, seed=3, threads=2))
    assert torch.equal(one[:1], make_pictures("spectrum", 1, size, seed=3))
    assert torch.equal(one[2:], torch.cat(list(iter_pictures("spectrum", count - 2, size, 3, start=2, chunk=4))))
    assert len({digest(picture) for picture in one}) == count


def test_seeds_differ_and_global_generator_is_left_alone():
    state = torch.get_rng_state()
    assert not torch.equal(sample_spectrum(1, seed=1).key, sample_spectrum(1, seed=2).key)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_render_does_not_write_to_params(params):
    before = {f.name: getattr(params, f.name).clone() for f in fields(params)}
    render_spectrum(params[:6], 8)
    assert all(torch.equal(value, getattr(params, name)) for name, value in before.items())


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_rows_of_a_record(params):
    rows = [3, 1]
    mask = torch.zeros(len(params), dtype=torch.bool)
    mask[[1, 3]] = True
    assert torch.equal(render_spectrum(params[rows], 8), render_spectrum(params[mask], 8).flip(0))
    assert len(params[:5]) == 5 and len(params[:0]) == 0
    assert render_spectrum(params[:0], 8).shape == (0, 3, 8, 8)


def test_every_kind_occurs_and_can_be_chosen(params):
    assert set(params.kind.tolist()) == set(range(len(KINDS)))
    for kind in KINDS:
        assert (sample_spectrum(5, kinds=[kind]).kind == KINDS.index(kind)).all()
    two = sample_spectrum(40, kinds=["wavelet", "spectrum"])
    assert set(two.kind.tolist()) == {KINDS.index("spectrum"), KINDS.index("wavelet")}
    assert torch.equal(two.kind, sample_spectrum(40, kinds=("spectrum", "wavelet")).kind)
    assert SOURCE.kinds == KINDS and SOURCE.version == 1


def test_records_are_finite_and_in_range(params):
    for f in fields(params):
        assert getattr(params, f.name).isfinite().all(), f.name
        assert len(getattr(params, f.name)) == len(params)
    assert torch.allclose(params.axis.norm(dim=1), torch.ones(len(params), dtype=torch.float64))
    assert ((params.strain >= 0) & (params.strain < 1)).all() and (params.tail > 0).all()
    assert params.attempt.max() < 40 and params.attempt.max() > 0
    assert len(params.key.unique()) == len(params)


def test_none_is_drawn_dark_bright_or_without_contrast():
    chosen = sample_spectrum(300, seed=12)
    luminance = chosen.mean @ torch.from_numpy(measured.OPPONENT[0])
    assert 121 <= luminance.min() < 135 and 310 < luminance.max() <= 329  # limits that are reached, not passed
    opponent = torch.from_numpy(measured.OPPONENT) @ chosen.mixing
    assert opponent[:, 0, 0].log().min() >= 4.0 - 1e-9
    assert (opponent[:, 1, 1].log() + 0.3 * opponent[:, 2, 2].log()).min() >= 3.2 - 1e-9


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("size", SIZES)
def test_odd_sizes(params, size):
    pictures = render_spectrum(params[:4], size)
    assert pictures.shape == (4, 3, size, size) and pictures.dtype == torch.uint8
    assert pictures.flatten(1).to(torch.float32).std(1).min() > 3


# --- richness -------------------------------------------------------------------------------------------------------


@needs_jit
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_rich(kind):
    """No picture is looked at when it is drawn: the ranges of the parameters must do."""
    found = richness(render_spectrum(sample_spectrum(120, seed=8, kinds=kind), 64))
    assert found.accepted.to(torch.float64).mean() >= 0.85
    assert (found.flat < 0.7).all() and (found.entropy > 1.2).all() and (found.grain < 0.9).all()
    assert ((found.brightness > 40) & (found.brightness < 215)).all() and (found.colours > 7).all()


@needs_jit
def test_no_near_duplicates():
    thumbnails = make_pictures("spectrum", 1000, 16, seed=5).flatten(1).to(torch.float32)
    distance = torch.cdist(thumbnails, thumbnails) / thumbnails.shape[1] ** 0.5
    distance.fill_diagonal_(1e9)
    assert distance.min() > 15  # grey levels, root mean square


# --- processes ------------------------------------------------------------------------------------------------------


FORKED = """
import hashlib, os, warnings
from mixaug.mixing_sets import make_pictures
warnings.simplefilter("ignore")  # newer Pythons warn of forks after threads
make_pictures("spectrum", 4, 32, threads=2)
child = os.fork()
if not child:
    print(hashlib.sha256(make_pictures("spectrum", 2, 32, seed=1, threads=2).numpy().tobytes()).hexdigest(), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@needs_jit
def test_forked_child_after_use_in_the_parent():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    expected = digest(make_pictures("spectrum", 2, 32, seed=1, threads=2))
    assert done.stdout.split() == [expected, "0"], done.stderr


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call,error,words",
    [
        (lambda: make_pictures("spectrum", 0), ValueError, "count must be from 1 to 10000000, got 0"),
        (lambda: sample_spectrum(-3), ValueError, "count must be from 1 to 10000000, got -3"),
        (lambda: sample_spectrum(2.0), TypeError, "count must be an int, got float"),
        (lambda: sample_spectrum(1, seed=-1), ValueError, "seed must be from 0 to 9223372036854775807"),
        (lambda: sample_spectrum(1, seed="0"), TypeError, "seed must be an int, got str: '0'"),
        (lambda: sample_spectrum(1, start=-1), ValueError, "start must be from 0 to 9223372036854775807"),
        (lambda: sample_spectrum(1, threads=0), ValueError, "threads must be from 1 to 1024"),
        (lambda: sample_spectrum(1, kinds="pink"), ValueError, "kinds must name some of spectrum, .*, got 'pink'"),
        (lambda: sample_spectrum(1, kinds=()), ValueError, "kinds must name some of"),
        (lambda: sample_spectrum(1, kinds=3), TypeError, "kinds must be a str, a sequence of them or None, got int"),
        (lambda: render_spectrum([1]), TypeError, "params must be a SpectrumParams, got list"),
        (lambda: render_spectrum(sample_spectrum(1), 7), ValueError, "size must be from 8 to 16384, got 7"),
        (lambda: render_spectrum(sample_spectrum(1), 8.0), TypeError, "size must be an int, got float"),
        (
            lambda: render_spectrum(sample_spectrum(1), 8, threads=0),
            ValueError,
            "threads must be from 1 to 1024",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_import_is_light():
    code = "import sys, mixaug.mixing_sets.spectrum; print('numba' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
