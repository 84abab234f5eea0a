"""The records of what was measured, the pages made from them, and the code that makes both."""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported
