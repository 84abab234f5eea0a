"""Tar shards in webdataset's layout: the files of a sample follow each other and share a key.

The key is a member's path up to the first dot of its base name, the rest is the suffix: `a/b.jpg`,
`a/b.cls` and `a/b.json` are one sample. The label is the number in .cls, else `label` (or `cls`) of
.json, else a .txt that is a whole number.
"""

import json
from typing import BinaryIO

from util.data.archives import tar
from util.data.archives.listing import UNLABELLED, Listing, is_hidden, suffix_of
from util.errors import InputError

LABELS = ('cls', 'json', 'txt')  # the earlier one wins
KEYS = ('label', 'cls')  # of .json
LARGEST = 2**20  # bytes of a member that may hold a label
MOST = 2**31  # labels


def pieces(path: str) -> list[None]:
    """A shard is listed in one piece."""
    return [None]


def listing(path: str, piece: None, suffixes: tuple[str, ...]) -> Listing:
    """The images of a shard; suffixes: of the names that count as images."""
    found = Listing()
    sample = {}
    current = None
    with open(path, 'rb') as file:
        for member in tar.members(file, path):
            if not member.is_file:
                continue
            key, suffix = split(member.name)
            base = key.rsplit('/', 1)[-1]
            if is_hidden(member.name) or '\0' in member.name or base.startswith('__'):
                found.left_out['hidden files'] += 1
                continue
            if key != current:
                _add(found, file, path, sample, suffixes)
                sample = {}
                current = key
            sample.setdefault(suffix, member)
        _add(found, file, path, sample, suffixes)
    return found


def split(name: str) -> tuple[str, str]:
    """(key, suffix) of a member's name; the suffix without its dot, in lower case."""
    folder, slash, base = name.rpartition('/')
    key, _, suffix = base.partition('.')
    return f'{folder}{slash}{key}', suffix.lower()


def _add(
    found: Listing, file: BinaryIO, path: str, sample: dict[str, tar.Member], suffixes: tuple
) -> None:
    """Append the image of a sample; the first one, if it has several."""
    images = [suffix for suffix in sample if f'.{suffix}' in suffixes]
    for suffix, member in sample.items():
        if suffix not in images[:1] and suffix not in LABELS:
            found.left_out[suffix_of(member.name)] += 1
    if not images:
        return
    image = sample[images[0]]
    for suffix in LABELS:
        member = sample.get(suffix)
        if member is None or member.length > LARGEST:
            continue
        file_position = file.tell()
        file.seek(member.offset)
        text = file.read(member.length)
        file.seek(file_position)
        label = _label(text, suffix, f'{path}/{member.name}')
        if label != UNLABELLED:
            found.add(image.name, image.offset, image.length, label)
            return
    found.add(image.name, image.offset, image.length)


def _label(text: bytes, suffix: str, name: str) -> int:
    """The label that a member holds; InputError if it should hold one and does not."""
    if suffix == 'json':
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(f'{name}: this is no JSON') from None
        values = [content.get(key) for key in KEYS] if isinstance(content, dict) else []
        numbers = [value for value in values if isinstance(value, int) and 0 <= value < MOST]
        return numbers[0] if numbers else UNLABELLED

    text = text.strip()
    if text.isdigit() and len(text) < 10:
        return int(text)
    if suffix == 'cls':
        shown = text[:20].decode(errors='replace')
        raise InputError(f'{name}: expected a label, a whole number from 0, and found {shown!r}')
    return UNLABELLED
