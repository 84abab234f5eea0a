"""Repairs of PaddleDetection 2.6.0 on Paddle 3: one function each, with its reason."""


def apply() -> None:
    """Make all repairs."""
