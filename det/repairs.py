"""Repairs of PaddleDetection 2.6.0 on Paddle 3: one function each, with its reason."""

import contextlib
import io
import sys

UNUSED = 'Warning: Unable to use '  # lap, numba, motmetrics: for trackers


def quiet_import() -> None:
    """Importing PaddleDetection prints a line for each package that only its trackers need.

    The first import drops these lines, and passes on everything else.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            import ppdet  # noqa: F401
    finally:
        for line in printed.getvalue().splitlines(keepends=True):
            if not line.startswith(UNUSED):
                sys.stdout.write(line)
