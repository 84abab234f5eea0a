"""The only readers and writers of weight files. None of them runs code from a file."""
from pathlib import Path

from util.errors import InputError
from util.weights import paddle_file, safetensors_file


def read(path: str | Path) -> dict:
    """Contents of a weight file, tensors as NumPy arrays (bfloat16 as float32); InputError says what is wrong with it.

    Knows safetensors and what paddle.save writes, our checkpoints included.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{path} is a folder; expected a weight file')
    if not path.exists():
        raise InputError(f'{path}: no such file')
    if path.stat().st_size == 0:
        raise InputError(f'{path} is empty; its writing was interrupted or its download failed')
    if path.suffix == '.safetensors':
        return safetensors_file.read(path)
    return paddle_file.read(path)
