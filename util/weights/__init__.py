"""The only readers and writers of weight files. None of them runs code from a file."""

import hashlib
import mmap
from collections.abc import Callable
from pathlib import Path

from util.errors import InputError
from util.progress import bar
from util.weights import paddle_file, safetensors_file, torch_file

CHUNK = 2**24  # bytes of which the checksum is updated at a time
HEADER_LIMIT = 10**8  # bytes of a safetensors header, by the format
# the first bytes of files that are often found in place of a weight file
OTHERS = {
    b'<': 'a web page; the download failed',
    b'version https://git-lfs': 'a pointer to one; `git lfs pull` fetches it',
}


def read(path: str | Path) -> dict:
    """The contents of a weight file, tensors as NumPy arrays (bfloat16 as float32).

    Reads safetensors and the files of torch.save and of paddle.save, our checkpoints included. The
    format is recognised by the contents, not by the name. Arrays may be read-only. InputError says
    what is wrong with a file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{path} is a folder; expected a weight file')
    if not path.exists():
        raise InputError(f'{path}: no such file')
    if path.stat().st_size == 0:
        raise InputError(f'{path} is empty; writing it was interrupted or the download failed')
    return _reader(path)(path)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    size = Path(path).stat().st_size
    with open(path, 'rb') as file:
        for start in bar(range(0, size, CHUNK), 'chunks for the checksum'):
            # mapped, because reading would copy it
            length = min(CHUNK, size - start)
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start) as chunk:
                digest.update(chunk)
    return digest.hexdigest()


def _reader(path: Path) -> Callable[[Path], dict]:
    """The function that reads a file which begins like this one."""
    with open(path, 'rb') as file:
        head = file.read(512)

    # safetensors comes first, because the length of its header may look like '<'
    header_length = int.from_bytes(head[:8], 'little')
    if head[8:9] == b'{' and header_length <= HEADER_LIMIT:
        return safetensors_file.read
    text = head.lstrip(b'\xef\xbb\xbf\t\r\n ')  # byte order mark and blanks
    for beginning, what in OTHERS.items():
        if text.startswith(beginning):
            raise InputError(f'{path} is not a weight file but {what}')
    if head[257:262] == b'ustar':
        raise InputError(
            f'{path} is a tar archive, as the first PyTorch versions wrote; '
            'save it again with a newer version'
        )
    if torch_file.recognises(head):
        return torch_file.read
    return paddle_file.read
