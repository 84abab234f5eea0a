"""Is our model the original? The original runs in PyTorch, in a process of its own (original.py, which nothing imports);
ladder.py compares what both computed, rung by rung, and main_parity.py is the program."""
import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported
