"""The records of what was measured, the pages made from them, and the code that makes both."""

import util  # noqa: F401  before everything else: it prepares the machine for Paddle
