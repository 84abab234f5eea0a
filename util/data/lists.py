"""Read lists: text files with one entry a line, the same way for all programs.

UTF-8 with or without its mark (BOM), or UTF-16 with it; lines end as on Linux, Windows or old
Macs; blank lines and blanks around an entry do not count. Errors name the list and the line.
"""

import codecs
import re
from pathlib import Path

from util.errors import InputError

WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(file: str | Path, what: str, name: str = '') -> list[tuple[int, str]]:
    """The entries of a list, each with the number of its line.

    what: the content that was expected. name: what to call the file in errors, which are InputErrors.
    """
    name = name or str(file)
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f'{name}: cannot be read ({error.strerror or error})') from None
    encoding = 'utf-16' if data.startswith(WIDE) else 'utf-8-sig'
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise InputError(f'{name}, line {line}: this is no {what}, or not in UTF-8') from None
    lines = text.replace('\r\n', '\n').replace('\r', '\n').split('\n')
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def pair(
    entry: str, suffixes: tuple[str, ...], folder: str | Path, separator: str = ''
) -> tuple[str, str] | None:
    """Split `picture label` where the picture's name, which may hold blanks, ends in a suffix.

    Of several such places it is the first at which a picture of `folder` ends. None without such a
    place. separator: what stands between the two; blanks by default.
    """
    between = re.finditer(re.escape(separator) or r'\s+', entry)
    splits = [(entry[: gap.start()].strip(), entry[gap.end() :].strip()) for gap in between]
    splits = [split for split in splits if split[0].lower().endswith(suffixes) and split[1]]
    for split in splits:
        if (Path(folder) / split[0]).is_file():
            return split
    return splits[0] if splits else None
