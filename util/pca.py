"""Principal components of many vectors that are seen in parts, by NumPy."""

from collections.abc import Iterable

import numpy as np

from util.errors import InputError


def components(parts: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and the first `count` principal components [D, count] of all rows of `parts`.

    Each part is [rows, D]. Components have length 1, the one of the largest variance is first, and
    the largest entry of each is positive. They are float32, summed in float64. InputError where the
    rows vary in fewer directions.
    """
    number = 0
    total = products = 0.0
    for part in parts:
        rows = part.astype('float64')
        number += len(rows)
        total += rows.sum(0)  # [D]
        products += rows.T @ rows  # [D, D]
    mean = total / number
    covariance = products / number - np.outer(mean, mean)

    variances, vectors = np.linalg.eigh(covariance)  # from the smallest on
    directions = int((variances > 1e-9 * variances[-1]).sum())
    if directions < count:
        raise InputError(f'a PCA of {count} components: the data vary in {directions} directions')
    basis = vectors[:, ::-1][:, :count]
    largest = np.abs(basis).argmax(0)  # [count], the row of each column's largest entry
    signs = np.sign(basis[largest, np.arange(count)])
    return mean.astype('float32'), (basis * signs).astype('float32')
