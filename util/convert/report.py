"""What reading or writing a weight file did with each tensor."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """How many tensors of a file were kept, and by name which were dropped or made, and why."""

    file: str
    format: str = ''
    kind: str = ''
    taken: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f'{self.file}: {self.kind}, {self.format}; {self.taken} tensors']
        lines += _by_reason('dropped', self.dropped)
        lines += _by_reason('made', self.made)
        return '\n'.join(lines)


def _by_reason(verb: str, reasons: dict[str, str]) -> list[str]:
    """A line for each reason, with the first three names that it holds for."""
    lines = []
    for reason in dict.fromkeys(reasons.values()):
        which = [name for name, why in reasons.items() if why == reason]
        listed = ', '.join(which[:3])
        if len(which) > 3:
            listed += f' and {len(which) - 3} more'
        lines.append(f'  {verb} {listed}: {reason}')
    return lines
