"""Is our model the original?

The original runs in PyTorch, in a process of its own: original/, which nothing imports and
process.py starts. model.py and ours.py compute the same with Paddle; climb.py and accuracy.py go
from rung to rung; ladder.py compares, by the limits of tolerances.py; main_parity is the program.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported
