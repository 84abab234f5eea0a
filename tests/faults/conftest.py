"""Tests that break things on purpose.

The quick tests are part of the default suite; the long ones have the marker `faults`. A table at
the end shows how often each test broke something, and how often that failed the test.
"""

import contextlib

import pytest
from test_seg_train import config, scenes  # noqa: F401  a segmentor that trains in seconds
from toy_detector import detection, squares  # noqa: F401  a detector that trains in seconds

ROWS = {}


@pytest.fixture
def tally(request):
    """tally(what) -> a context for one trial, which fails if it raises.

    A long test runs all its trials and fails at its end.
    """
    failures = []

    @contextlib.contextmanager
    def trial(what):
        row = ROWS.setdefault(what, [0, 0])
        row[0] += 1
        try:
            yield
        except Exception as error:
            row[1] += 1
            if request.node.get_closest_marker('faults') is None:
                raise
            failures.append(f'{what}, trial {row[0]}: {type(error).__name__}: {error}')
        print(f'{what}: {row[0]} trials, {row[1]} failures', flush=True)  # shown with -s

    yield trial
    assert not failures, '\n'.join(failures[:20])


def pytest_terminal_summary(terminalreporter):
    if ROWS:
        terminalreporter.section('broken on purpose')
        width = max(map(len, ROWS))
        terminalreporter.write_line(f'{"what":{width}}  trials  failures')
        for what, (trials, failures) in ROWS.items():
            terminalreporter.write_line(f'{what:{width}}  {trials:6}  {failures:8}')
