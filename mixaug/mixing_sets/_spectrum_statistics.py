"""Statistics of photographs: what `benchmarks/measure_picture_statistics.py` prints.

Colours: of the 50,000 training pictures of CIFAR-10 (as JPEG). Slopes and sub-bands: of the colour photographs that
come with scikit-learn and scikit-image, in squares of 128 px.
"""

from __future__ import annotations

import numpy as np

#: Rows: luminance, red against blue, green against both; orthonormal.
OPPONENT = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]]) / np.sqrt([[3.0], [2.0], [6.0]])

# Of a picture's 9 numbers: means of the opponent channels (grey levels); logarithms of the diagonal of the Cholesky
# factor L of their covariance; L10 / L00, L20 / L00, L21 / L11. Mean and Cholesky factor over the pictures.
COLOUR_MEAN = np.array([208.5147, 8.1659, 2.7836, 4.4008, 2.4655, 1.5028, 0.0026, 0.0059, 0.0274])
_FACTOR = (
    (54.7872,),
    (-4.5691, 21.3922),
    (-0.9525, 1.4952, 9.3924),
    (0.0651, -0.0165, -0.0676, 0.3252),
    (-0.0415, -0.0117, -0.0647, 0.0472, 0.6243),
    (-0.1288, 0.1328, 0.1415, 0.0325, 0.2998, 0.4612),
    (-0.0318, 0.0252, 0.0112, -0.0034, -0.0087, -0.0026, 0.1021),
    (-0.0015, 0.0072, 0.0013, 0.0014, 0.0042, 0.0010, 0.0045, 0.0465),
    (0.0006, 0.0081, 0.1167, 0.0060, -0.0330, -0.0392, -0.0047, 0.0085, 0.3488),
)
COLOUR_FACTOR = np.array([[*row, *[0.0] * (9 - len(row))] for row in _FACTOR])

#: The exponent a of the amplitude spectrum 1/f^a of the luminance: mean and standard deviation over the squares.
SLOPE_MEAN, SLOPE_SPREAD = 1.3758, 0.2813

#: Generalised-Gaussian exponents of the luminance's oriented sub-bands around 8, 16 and 32 cycles (medians).
BAND_EXPONENTS = (1.0740, 0.7801, 0.6620)
