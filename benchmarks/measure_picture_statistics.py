"""Measure the colour and sub-band statistics of photographs that the spectrum pictures are drawn from.

    python benchmarks/measure_picture_statistics.py FOLDER [--most N] [--size S]

FOLDER (searched with its subfolders) holds PNG or JPEG pictures; those without colour are left out. Prints the
constants of ``mixaug/mixing_sets/spectrum/__init__.py``:

- colours: of each picture the vector of `colour_vector` (mean and log-Cholesky factor of the covariance, in opponent
  axes); printed are its mean and the Cholesky factor of its covariance over the pictures;
- slopes: the exponent a of the amplitude spectrum 1/f^a of each opponent channel, its mean and spread;
- sub-bands: per octave the kurtosis and the generalised-Gaussian exponent of the luminance's oriented sub-bands.

The committed colours come from the 50,000 training pictures of CIFAR-10, the slopes and sub-bands from the colour
photographs that come with scikit-learn and scikit-image, cut into squares of 128 px (``--bundled``).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

# Rows: luminance, red against blue, green against both; orthonormal.
OPPONENT = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]]) / np.sqrt([[3.0], [2.0], [6.0]])
FLOOR = 0.5  # grey levels squared added to each variance: a grey picture has a logarithm too
BUNDLED = {  # photographs in colour; their other pictures are grey, drawn, or of a microscope or telescope
    "sklearn.datasets": ("images/china.jpg", "images/flower.jpg"),
    "skimage": ("data/astronaut.png", "data/chelsea.png", "data/coffee.png", "data/motorcycle_left.png"),
}


def read_pictures(paths: list[Path]) -> Iterator[np.ndarray]:
    """float64 (H, W, 3) of each picture that has colour and sides of 16 or more."""
    for path in paths:
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"), np.float64)
        if min(picture.shape[:2]) >= 16 and np.ptp(picture, axis=2).max() > 0:
            yield picture


def bundled_paths() -> list[Path]:
    """The photographs that scikit-learn and scikit-image bring with them."""
    import importlib

    folders = {name: Path(importlib.import_module(name).__file__ or "").parent for name in BUNDLED}
    return [folders[name] / file for name, files in BUNDLED.items() for file in files]


def colour_vector(picture: np.ndarray) -> np.ndarray:
    """The 9 numbers of a picture's colours.

    Mean of the three opponent channels; logarithms of the diagonal of the Cholesky factor L of their covariance; and
    L10 / L00, L20 / L00, L21 / L11.
    """
    channels = picture.reshape(-1, 3) @ OPPONENT.T
    covariance = np.cov(channels.T, bias=True) + FLOOR * np.eye(3)
    low = np.linalg.cholesky(covariance)
    ratios = [low[1, 0] / low[0, 0], low[2, 0] / low[0, 0], low[2, 1] / low[1, 1]]
    return np.array([*channels.mean(0), *np.log(np.diag(low)), *ratios])


def squares(picture: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Its squares of ``size`` px side by side, at full and half resolution; the whole picture if it is smaller."""
    height, width = picture.shape[:2]
    side = min(size, height, width)
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            yield picture[top : top + side, left : left + side]
    if min(height, width) >= 2 * size:
        even = picture[: height // 2 * 2, : width // 2 * 2]
        yield from squares(even.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)), size)


def frequencies(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(fx, fy, radius) in cycles a picture of the whole plane."""
    line = np.fft.fftfreq(size, 1.0 / size)
    fx, fy = np.meshgrid(line, line)
    return fx, fy, np.hypot(fx, fy)


def window(side: int) -> np.ndarray:
    """Hann window (side, side), so that the borders do not show as edges."""
    line = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return line[:, None] * line


def transform(square: np.ndarray) -> np.ndarray:
    """(3, S, S) spectrum of the opponent channels under a window."""
    channels = np.moveaxis(square @ OPPONENT.T, 2, 0)
    weight = window(channels.shape[1])
    centred = channels - (channels * weight).sum((1, 2), keepdims=True) / weight.sum()
    return np.fft.fft2(centred * weight)


def slopes(spectrum: np.ndarray) -> np.ndarray:
    """a of 1/f^a for each channel: a line through the logarithms of the root mean power of rings."""
    side = spectrum.shape[1]
    _, _, radius = frequencies(side)
    ring = np.rint(radius).astype(int)
    inside = (ring >= 2) & (ring <= 0.4 * side)
    found = []
    for channel in spectrum:
        power = np.bincount(ring[inside], (np.abs(channel) ** 2)[inside]) / np.maximum(np.bincount(ring[inside]), 1)
        f = np.arange(2, len(power))
        found.append(-0.5 * np.polyfit(np.log(f), np.log(power[2:] + 1e-9), 1, w=1.0 / np.sqrt(f))[0])
    return np.array(found)


def sub_band(spectrum: np.ndarray, octave: float, axis: int) -> np.ndarray:
    """One oriented band: a cosine over the octaves on either side of ``octave`` cycles, odd in an axis.

    The middle half only, divided by the window, which would make a Gaussian band look heavy-tailed.
    """
    side = spectrum.shape[0]
    fx, fy, radius = frequencies(side)
    place = np.abs(np.log2(np.maximum(radius, 1e-9) / octave))
    band = np.where(place < 1.0, np.cos(0.5 * np.pi * place), 0.0)
    cosine = (fx, fy)[axis] / np.maximum(radius, 1e-9)
    inner = slice(side // 4, side - side // 4)
    values = np.fft.ifft2(1j * band * cosine**3 * spectrum).real / window(side)
    return values[inner, inner]


def marginal(values: np.ndarray) -> tuple[float, float]:
    """Kurtosis and generalised-Gaussian exponent (by the ratio of mean square and squared mean absolute value)."""
    square, fourth = (values**2).mean(), (values**4).mean()
    ratio = np.abs(values).mean() ** 2 / max(square, 1e-12)
    low, high = 0.2, 4.0
    for _ in range(40):
        r = 0.5 * (low + high)
        wanted = math.exp(2.0 * math.lgamma(2.0 / r) - math.lgamma(1.0 / r) - math.lgamma(3.0 / r))
        low, high = (r, high) if wanted < ratio else (low, r)
    return fourth / max(square, 1e-12) ** 2, 0.5 * (low + high)


def measure(pictures: Iterator[np.ndarray], size: int = 128) -> dict[str, np.ndarray]:
    """All statistics of a set of pictures.

    Returns:
        ``colour_mean`` (9,), ``colour_factor`` (9, 9) lower triangular; ``slope_mean``, ``slope_spread`` (3,);
        ``octaves``, ``kurtosis``, ``exponent`` (bands,): medians over the squares.
    """
    colours, steep, bands = [], [], []
    octaves = [2.0**k for k in range(2, 16) if 2.0**k <= size / 4]
    for picture in pictures:
        colours.append(colour_vector(picture))
        for square in squares(picture, size):
            spectrum = transform(square)
            steep.append(slopes(spectrum))
            bands.append(
                [np.mean([marginal(sub_band(spectrum[0], octave, axis)) for axis in (0, 1)], 0) for octave in octaves]
            )
    if len(colours) < 2:
        raise ValueError(f"at least 2 colour pictures are needed, got {len(colours)}")
    vectors, steeps = np.array(colours), np.array(steep)
    middle = np.median(np.array(bands), 0)
    return {
        "colour_mean": vectors.mean(0),
        "colour_factor": np.linalg.cholesky(np.cov(vectors.T) + 1e-9 * np.eye(9)),
        "slope_mean": steeps.mean(0),
        "slope_spread": steeps.std(0),
        "octaves": np.array(octaves),
        "kurtosis": middle[:, 0],
        "exponent": middle[:, 1],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="pictures")
    parser.add_argument("--bundled", action="store_true", help="the photographs of scikit-learn and scikit-image")
    parser.add_argument("--most", type=int, default=50_000, help="pictures at most")
    parser.add_argument("--size", type=int, default=128, help="side of the squares of slopes and sub-bands")
    options = parser.parse_args(arguments)
    if options.bundled:
        paths = bundled_paths()
    elif options.folder is not None and options.folder.is_dir():
        paths = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    else:
        parser.error(f"FOLDER must be a folder of pictures, got {options.folder}")
    found = measure(read_pictures(paths[: options.most]), options.size)
    with np.printoptions(precision=4, suppress=True, linewidth=110):
        for name, values in found.items():
            print(f"{name} =\n{np.array2string(values, separator=', ')}")


if __name__ == "__main__":
    main()
