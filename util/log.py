"""Messages to the person who runs a program: the main process's lines, all processes' warnings."""

import functools
import sys

from util import dist

_shown: dict[int, int] = {}  # rank -> how many of its warnings the main process has printed
_pending = 0  # warnings of this rank since the last call of pending()


def info(text: object) -> None:
    """Print a text, or an object's str(), on the main process."""
    if dist.is_main():
        print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning that all ranks have; only the main process prints it, on stderr."""
    if dist.is_main():
        warn_from_rank(text)


@functools.cache
def warn_once(text: str) -> None:
    """As `warn`, but never the same text again."""
    warn(text)


def warn_from_rank(text: str) -> None:
    """Print a warning that only this rank has, on its own stderr and on the main process's.

    Output of other ranks goes only to the launcher's log. So their warnings wait in the key-value
    store until the main process calls `show_pending`.
    """
    global _pending
    if dist.is_main():
        print(f'warning: {text}', file=sys.stderr, flush=True)
        return
    rank = dist.rank()
    text = f'warning (rank {rank}): {text}'
    print(text, file=sys.stderr, flush=True)

    # the text first: the count tells the main process that it can read it
    count = f'mae/warnings/{rank}'
    number = dist.store_add(count, 0)
    dist.store_set(f'mae/warning/{rank}/{number}', text)
    dist.store_add(count, 1)
    _pending += 1


def pending() -> int:
    """The number of warnings of this rank since the last call.

    When the sum over the ranks is not 0, the main process should call show_pending. This is
    cheaper than asking the store, which takes a round trip for each rank.
    """
    global _pending
    count = _pending
    _pending = 0
    return count


def show_pending() -> None:
    """Print on the main process the warnings of other ranks since the last call."""
    if not dist.is_main():
        return
    for rank in range(1, dist.world_size()):
        total = dist.store_add(f'mae/warnings/{rank}', 0)
        for number in range(_shown.get(rank, 0), total):
            text = dist.store_get(f'mae/warning/{rank}/{number}')
            print(text, file=sys.stderr, flush=True)
            _shown[rank] = number + 1
