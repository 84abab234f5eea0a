"""What a section is told, and what it finds: one line of JSON a case, written when it is known."""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

FAULTS = ('tolerance', 'device', 'memory')
FIELDS = ('measured', 'allowed', 'unit', 'note')


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all sections are told.

    device: gpu or cpu. devices: the number of GPUs, or of processes on a CPU. tiny: models of some
    thousand weights. torch: the Python of an environment with PyTorch, or nothing. weights: files
    of official weights for the ladder. fault: what is broken on purpose, one of FAULTS or nothing.
    """

    device: str
    devices: int
    tiny: bool
    scratch: str
    torch: str = ''
    weights: tuple[str, ...] = ()
    fault: str = ''

    @property
    def folder(self) -> Path:
        """A folder for files that nobody needs after the suite."""
        return Path(self.scratch)

    @property
    def environment(self) -> dict[str, str]:
        """What programs of this section find in the environment besides the usual."""
        if self.fault == 'device':
            return {'CUDA_VISIBLE_DEVICES': ''}  # --device gpu then is an error on any machine
        return {}

    @property
    def flag(self) -> str:
        """The value of --device."""
        return 'gpu' if self.fault == 'device' else self.device

    def spend_memory(self) -> None:
        """Paddle's own error for memory that no device has, where that is the fault."""
        if self.fault == 'memory':
            import paddle  # takes seconds

            paddle.empty([2**46])


def one_line(error: object, limit: int = 300) -> str:
    """The text of an error in one line: its last line that says something, without colours."""
    text = re.sub(r'\x1b\[[\d;]*m', '', str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip(' -')]
    if isinstance(error, BaseException):
        first = lines[0] if lines else ''
        return f'{type(error).__name__}: {first}'[:limit]
    told = [line for line in lines if 'error' in line.lower()]
    return (told or lines or ['nothing was printed'])[-1][:limit]


class Report:
    """The cases of a section; each is kept under its name in a file of all sections.

    done: the names of cases that passed before, which are not done again.
    """

    def __init__(self, section: str, file: Path, settings: Settings, done: frozenset[str]):
        self.section = section
        self.file = Path(file)
        self.settings = settings
        self.done = done

    def wants(self, *names: str) -> bool:
        """Whether one of these cases has to be done."""
        return not set(names) <= self.done

    def measured(self, case: str, value: float, allowed: float, note: str = '') -> None:
        """A difference or time, which passes if it is at most `allowed`."""
        if self.settings.fault == 'tolerance':
            allowed = -1.0  # on purpose
        value = float(value)  # of NumPy, perhaps
        passed = math.isfinite(value) and value <= allowed
        self._write(case, passed=passed, measured=value, allowed=allowed, note=note)

    def figures(self, case: str, note: str = '', **figures: float | str) -> None:
        """Measurements without a tolerance."""
        broken = self.settings.fault == 'tolerance'
        self._write(case, passed=not broken, figures=figures, note=note)

    def told(self, case: str, passed: bool, note: str = '') -> None:
        """Something that is as it should be, or not."""
        broken = self.settings.fault == 'tolerance'
        self._write(case, passed=passed and not broken, note=note)

    def skipped(self, case: str, reason: str) -> None:
        """A case that cannot be done here."""
        self._write(case, passed=None, note=reason)

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """A block whose exception is this case's failure; the section goes on."""
        try:
            yield
        except Exception as error:
            self._write(name, passed=False, note=one_line(error))

    def end(self) -> None:
        """The section has come to its end."""
        self._write('', passed=True)

    def _write(self, case: str, **fields) -> None:
        line = {'section': self.section, 'case': case, **fields}
        with open(self.file, 'a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')


def read(file: Path) -> dict[tuple[str, str], dict]:
    """The newest line of each (section, case); a line that was cut off is left out."""
    found = {}
    if Path(file).exists():
        for line in Path(file).read_text(encoding='utf-8').splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                found[entry['section'], entry['case']] = entry
    return found
