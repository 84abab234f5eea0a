"""The safetensors format (huggingface/safetensors)."""
from pathlib import Path

import safetensors

from util.errors import InputError


def read(path: Path) -> dict:
    """All tensors as NumPy arrays, bfloat16 as float32; InputError where the file is damaged or of another format."""
    try:
        with safetensors.safe_open(str(path), framework='paddle') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not iterable itself
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f'{path} is no whole safetensors file: {error}') from None
    return {key: (tensor.astype('float32') if 'bfloat16' in str(tensor.dtype) else tensor).numpy()
            for key, tensor in tensors.items()}
