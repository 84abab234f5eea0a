"""Read lists: text files with one entry a line, by one set of rules for all programs.

UTF-8 with or without a byte order mark, or UTF-16 with one; line ends of Linux, Windows or old
Macs; blank lines and blanks around an entry are ignored. Errors name the list and the line.
"""

import codecs
import re
from pathlib import Path

from util.errors import InputError

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(file: str | Path, what: str, name: str = '') -> list[tuple[int, str]]:
    """The entries of a list, each with the number of its line.

    what: the content that was expected. name: how errors (InputError) call the file.
    """
    name = name or str(file)
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f'{name}: cannot be read ({error.strerror or error})') from None

    encoding = 'utf-16' if data.startswith(UTF16_MARKS) else 'utf-8-sig'
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise InputError(f'{name}, line {line}: this is not a {what}, or not in UTF-8') from None

    # not splitlines, which also splits at form feeds and Unicode's separators
    lines = text.replace('\r\n', '\n').replace('\r', '\n').split('\n')
    entries = []
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if entry:
            entries.append((number, entry))
    return entries


def pair(
    entry: str, suffixes: tuple[str, ...], folder: str | Path, separator: str = ''
) -> tuple[str, str] | None:
    """Split `picture label` after a suffix of the picture's name, which may contain blanks.

    If there are several such places, the first one wins that gives a picture of `folder`, else the
    first one. None without such a place. separator: the text between the two; blanks by default.
    """
    between = re.compile(re.escape(separator) or r'\s+')
    splits = []
    for gap in between.finditer(entry):
        picture = entry[: gap.start()].strip()
        label = entry[gap.end() :].strip()
        if label and picture.lower().endswith(suffixes):
            splits.append((picture, label))

    for picture, label in splits:
        if (Path(folder) / picture).is_file():
            return picture, label
    return splits[0] if splits else None
