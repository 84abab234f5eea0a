"""The safetensors format (huggingface/safetensors)."""
from pathlib import Path

import numpy as np
import safetensors

from util.errors import InputError

DTYPES = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'uint16', 'I64': 'int64', 'I32': 'int32',
          'I16': 'int16', 'I8': 'int8', 'U8': 'uint8', 'BOOL': 'bool'}


def read(path: Path) -> dict:
    """All tensors as NumPy arrays, bfloat16 as float32; InputError where the file is damaged or of another format."""
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise InputError(f'{path} is no whole safetensors file: {error}') from None
    tensors = {}
    for name, entry in entries:
        if entry['dtype'] not in DTYPES:
            raise InputError(f'{path}: {name} is of type {entry["dtype"]}; known are {" ".join(DTYPES)}')
        array = np.frombuffer(entry['data'], DTYPES[entry['dtype']]).reshape(entry['shape'])
        tensors[name] = bfloat16(array) if entry['dtype'] == 'BF16' else array
    return tensors


def bfloat16(upper_bits: np.ndarray) -> np.ndarray:
    """float32 from the upper half of its bits, which is what bfloat16 is; NumPy has no such type."""
    return (upper_bits.astype('uint32') << 16).view('float32')
