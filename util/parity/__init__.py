"""Is our model the original? The original runs in PyTorch, in a process of its own (original.py, which nothing imports);
ladder.py compares what both computed, rung by rung, and main_parity.py is the program."""
