"""The only readers and writers of weight files. None of them runs code from a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from util.errors import InputError
from util.progress import bar
from util.weights import paddle_file, safetensors_file, torch_file

CHUNK = 2**24  # bytes read at a time for a checksum
HEADER_LIMIT = 10**8  # of a safetensors header, by the format
OTHERS = {
    b'<': 'a web page; its download failed',
    b'version https://git-lfs': 'a pointer to one; `git lfs pull` fetches it',
}


def read(path: str | Path) -> dict:
    """Contents of a weight file, tensors as NumPy arrays (bfloat16 as float32); InputError says what is wrong with it.

    Knows safetensors, what torch.save writes, and what paddle.save writes, our checkpoints included. The contents tell
    which one it is, not the name. Arrays may be read-only.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{path} is a folder; expected a weight file')
    if not path.exists():
        raise InputError(f'{path}: no such file')
    if path.stat().st_size == 0:
        raise InputError(f'{path} is empty; its writing was interrupted or its download failed')
    return _reader(path)(path)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    chunks = -(-Path(path).stat().st_size // CHUNK)
    with open(path, 'rb') as file:
        for _ in bar(range(chunks), 'chunks for the checksum'):
            digest.update(file.read(CHUNK))
    return digest.hexdigest()


def _reader(path: Path) -> Callable[[Path], dict]:
    """The function that reads what this file begins like."""
    with open(path, 'rb') as file:
        head = file.read(512)
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= HEADER_LIMIT:
        # first, since it may begin with '<'
        return safetensors_file.read
    for beginning, what in OTHERS.items():
        if head.lstrip(b'\xef\xbb\xbf\t\r\n ').startswith(beginning):
            raise InputError(f'{path} is no weight file but {what}')
    if head[257:262] == b'ustar':
        raise InputError(
            f'{path} is a tar archive, as the first PyTorch versions wrote; save it again with a newer one'
        )
    return torch_file.read if torch_file.recognises(head) else paddle_file.read
