"""Weight files by their address: downloaded once, into a cache folder.

The folder is `mae` in $XDG_CACHE_HOME, or in ~/.cache. A file is named there as in its address, in
a folder of its own for each address. An interrupted download stays beside it as `.part` and is
continued, in the same run or the next one.
"""

import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from util import log, weights
from util.errors import InputError
from util.progress import bar

# torch.hub's convention: name-<first digits of the SHA-256>.pth
HASH = re.compile(r'-([0-9a-f]{8,64})\.')
CHUNK = 2**20  # bytes
TRIES = 5  # in a row without a new byte
PAUSE = 2.0  # seconds before another try, times the tries so far
TIMEOUT = 60.0  # seconds without a byte
BROKEN = (OSError, http.client.HTTPException)  # URLError is an OSError


def is_address(path: str | Path) -> bool:
    """Whether this is the address of a file, not a path."""
    return str(path).startswith(('https://', 'http://'))


def local(path: str | Path) -> str | Path:
    """The downloaded file of an https or http address; any other path as it is.

    Several processes may ask for the same address: one downloads, and the others wait for it.
    InputError if the server does not have the file, or if its hash is not the one in its name.
    """
    if not is_address(path):
        return path
    address = str(path)
    name = PurePosixPath(unquote(urlsplit(address).path)).name
    if not name:
        raise InputError(f'{address} names no file')
    number = hashlib.sha256(address.encode()).hexdigest()[:8]
    file = _cache() / number / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.parent / 'lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                log.info(f'downloading {address} to {file}')
                _download(address, file)
    except OSError as error:
        raise InputError(f'{address}: cannot keep it in {file.parent}: {error}') from None
    return file


def _cache() -> Path:
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(root, 'mae')


def _download(address: str, file: Path) -> None:
    """Download a file, going on after breaks."""
    part = file.with_name(f'{file.name}.part')
    tries = 0
    while True:
        before = _size(part)
        try:
            _continue(address, part)
            break
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()  # it is longer than the file on the server
            elif error.code < 500:
                answer = f'{error.code} {error.reason}'
                raise InputError(f'{address}: the server answers {answer}') from None
            problem = error
        except BROKEN as error:
            problem = error

        # Begin to count again after each break that follows new bytes
        tries = 1 if _size(part) > before else tries + 1
        if tries == TRIES:
            raise InputError(
                f'{address}: the download failed {TRIES} times, at last with: {problem}. '
                f'What has arrived is kept; the next run continues from there'
            )
        log.warn(f'{address}: {problem}; trying again')
        time.sleep(PAUSE * tries)
    _check_hash(address, file.name, part)
    part.replace(file)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _continue(address: str, part: Path) -> None:
    """Download what is missing of a file; an OSError or HTTPException where that breaks off."""
    request = urllib.request.Request(address, headers={'Accept-Encoding': 'identity'})
    version = part.with_name(f'{part.name}.version')  # the server's mark of the file's contents
    begun = _size(part) if version.exists() else 0
    if begun:
        request.add_header('Range', f'bytes={begun}-')
        request.add_header('If-Range', version.read_text())  # all of it if it has changed
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            begun = 0
        mark = answer.headers.get('ETag') or answer.headers.get('Last-Modified')
        if mark:
            version.write_text(mark)
        else:
            version.unlink(missing_ok=True)
        _write(answer, part, begun)
    version.unlink(missing_ok=True)


def _write(answer: http.client.HTTPResponse, part: Path, begun: int) -> None:
    """Write an answer's bytes behind the first `begun` ones of a file."""
    length = answer.headers.get('Content-Length')
    missing = int(length) if length else None
    chunks = missing and -(-missing // CHUNK)  # rounded up
    with open(part, 'r+b' if begun else 'wb') as file:
        file.seek(begun)
        file.truncate()
        for chunk in bar(iter(lambda: answer.read(CHUNK), b''), 'MB', total=chunks):
            file.write(chunk)
        arrived = file.tell() - begun
    if missing is not None and arrived < missing:
        raise http.client.IncompleteRead(b'', missing - arrived)


def _check_hash(address: str, name: str, part: Path) -> None:
    """InputError if a file's SHA-256 does not begin with the digits in its name; it is deleted."""
    digits = HASH.search(name)
    if not digits:
        return
    expected = digits[1]
    found = weights.sha256(part)
    if not found.startswith(expected):
        part.unlink()
        begins = found[: len(expected)]
        raise InputError(
            f'{address}: its SHA-256 begins with {begins}, and its name says {expected}; the file '
            'was damaged on its way or has changed. Try again'
        )
