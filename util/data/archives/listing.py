"""The images of one archive, as its reader lists them and as its index keeps them."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

UNLABELLED = -1


@dataclass
class Listing:
    """The images of an archive or of a piece of it, in the order in which they lie there.

    offsets: where an image begins in the file, in bytes; the number of its row for parquet.
    lengths: bytes. labels: whole numbers from 0, or UNLABELLED. classes: the names of the labels,
    where the archive has them. groups: the rows of each row group of parquet.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    classes: list[str] | None = None
    groups: list[int] | None = None
    left_out: Counter = field(default_factory=Counter)

    def add(self, name: str, offset: int, length: int, label: int = UNLABELLED) -> None:
        """Append an image."""
        self.names.append(name)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.labels.append(label)

    def extend(self, other: 'Listing') -> None:
        """Append the images of the next piece of the same archive, which must have no classes."""
        self.names += other.names
        self.offsets += other.offsets
        self.lengths += other.lengths
        self.labels += other.labels
        self.left_out += other.left_out


def suffix_of(name: str) -> str:
    """The key under which Listing.left_out counts a member: its suffix."""
    return PurePosixPath(name).suffix.lower() or 'without a suffix'


def is_hidden(name: str) -> bool:
    """Whether a part of a member's name begins with a dot, as folders' hidden files do."""
    return any(part.startswith('.') for part in name.split('/'))
