"""Repairs of PaddleDetection 2.6.0 on Paddle 3: one function each, with its reason."""

import contextlib
import io
import sys
import warnings

from PIL import ImageFile

UNUSED = 'Warning: Unable to use '  # lap, numba, motmetrics: for trackers


def apply() -> None:
    """Import PaddleDetection for the first time, without the effects that importing it has."""
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():  # it turns all warnings off, those of other modules too
        quiet_import()
    keep_truncated(truncated)


def keep_truncated(before: bool) -> None:
    """Importing PaddleDetection lets Pillow read the half of a picture, with grey for the rest.

    So a damaged picture would be trained on, and nobody would notice it.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = before


def quiet_import() -> None:
    """Importing PaddleDetection prints a line for each package that only its trackers need.

    These lines are dropped, and everything else is passed on.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            import ppdet  # noqa: F401
    finally:
        for line in printed.getvalue().splitlines(keepends=True):
            if not line.startswith(UNUSED):
                sys.stdout.write(line)
