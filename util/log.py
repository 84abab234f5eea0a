"""What a person sees of a run: lines of the main process, and the warnings of all processes."""

import sys

from util import dist

_shown: dict[int, int] = {}  # rank -> how many of its warnings the main process has printed
_pending = 0


def info(text: object) -> None:
    """Print a line, or what an object says of itself, on the main process."""
    if dist.is_main():
        print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning on stderr of the main process."""
    if dist.is_main():
        warn_from_rank(text)


def warn_from_rank(text: str) -> None:
    """Print a warning that this rank alone has, on its own stderr and on that of the main process.

    What another rank prints goes to the launcher's log alone, so its warnings wait in the key-value
    store until the main process calls `show_pending`.
    """
    global _pending
    text = f'warning: {text}' if dist.is_main() else f'warning (rank {dist.rank()}): {text}'
    print(text, file=sys.stderr, flush=True)
    if not dist.is_main():
        count = f'mae/warnings/{dist.rank()}'
        number = dist.store_add(count, 0)
        dist.store_set(f'mae/warning/{dist.rank()}/{number}', text)
        dist.store_add(count, 1)
        _pending += 1


def pending() -> int:
    """Count the warnings of this rank since the last call.

    Once their sum over the ranks is not 0, the main process should call show_pending; asking the
    store each time would cost a round trip a rank.
    """
    global _pending
    count, _pending = _pending, 0
    return count


def show_pending() -> None:
    """Print, on the main process, what other ranks have warned of since the last call."""
    if not dist.is_main():
        return
    for rank in range(1, dist.world_size()):
        for number in range(_shown.get(rank, 0), dist.store_add(f'mae/warnings/{rank}', 0)):
            print(dist.store_get(f'mae/warning/{rank}/{number}'), file=sys.stderr, flush=True)
            _shown[rank] = number + 1
