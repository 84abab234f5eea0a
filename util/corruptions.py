"""ImageNet-C's corruptions, and the mean corruption error (arXiv:1903.12261, section 4.1)."""

import math

# The corruptions that count, and AlexNet's error of each, the mean over the five severities: the
# divisors of the mean corruption error. The authors' (hendrycks/robustness), with the digits
# that google-research/augmix, imagenet.py, has
ALEXNET = {
    'gaussian_noise': 0.886428,
    'shot_noise': 0.894468,
    'impulse_noise': 0.922640,
    'defocus_blur': 0.819880,
    'glass_blur': 0.826268,
    'motion_blur': 0.785948,
    'zoom_blur': 0.798360,
    'snow': 0.866816,
    'frost': 0.826572,
    'fog': 0.819324,
    'brightness': 0.564592,
    'contrast': 0.853204,
    'elastic_transform': 0.646056,
    'pixelate': 0.717840,
    'jpeg_compression': 0.606500,
}
SEVERITIES = ('1', '2', '3', '4', '5')


def corruption_errors(accuracies: dict[str, list[float]]) -> dict[str, float]:
    """Each corruption's error over AlexNet's, in percent.

    accuracies: of each corruption, in percent, one for each severity.
    """
    errors = {}
    for corruption, values in accuracies.items():
        error = 100 - sum(values) / len(values)
        errors[corruption] = error / ALEXNET[corruption]
    return errors


def mean_corruption_error(accuracies: dict[str, list[float]]) -> float:
    """The mean of the corruption errors, in percent; NaN unless all of ALEXNET are there."""
    if accuracies.keys() != ALEXNET.keys():
        return math.nan
    return sum(corruption_errors(accuracies).values()) / len(ALEXNET)
