"""Work behind the training, in a thread of its own and in order: writing checkpoints."""

from collections.abc import Callable
from concurrent import futures


class Background:
    """Does one piece of work after the other while the training goes on.

    What is left is done before the process ends, unless it is killed.
    """

    def __init__(self):
        self._executor = futures.ThreadPoolExecutor(max_workers=1)
        self._works: list[futures.Future] = []

    def add(self, work: Callable[[], None]) -> None:
        """Do this after all work that was added before, whether or not that fails."""
        self._works.append(self._executor.submit(work))

    @property
    def has_failed(self) -> bool:
        """Whether some work has raised an exception, which `join` will raise here."""
        return any(work.done() and work.exception() for work in self._works)

    def join(self) -> None:
        """Wait until all is done; raises the first exception."""
        works, self._works = self._works, []
        for work in works:
            work.result()
