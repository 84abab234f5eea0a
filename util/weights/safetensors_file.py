"""The safetensors format (huggingface/safetensors)."""

import json
from pathlib import Path

import numpy as np
import safetensors

from util import atomic
from util.errors import InputError
from util.progress import bar

DTYPES = {
    'F64': 'float64',
    'F32': 'float32',
    'F16': 'float16',
    'BF16': 'uint16',
    'I64': 'int64',
    'I32': 'int32',
    'I16': 'int16',
    'I8': 'int8',
    'U8': 'uint8',
    'BOOL': 'bool',
}


def read(path: Path) -> dict:
    """All tensors as NumPy arrays, bfloat16 as float32; where the file says more than its tensors, these are under 'model',
    beside the rest. InputError where the file is damaged or of another format."""
    try:
        with safetensors.safe_open(path, 'np'):  # holds the header against the file's length
            data = path.read_bytes()
    except safetensors.SafetensorError as error:
        raise InputError(f'{path} is no whole safetensors file: {error}') from None
    start = 8 + int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:start])
    about, tensors = header.pop('__metadata__', {}), {}
    for name, entry in header.items():  # views of the data, where the library would copy them
        if entry['dtype'] not in DTYPES:
            raise InputError(
                f'{path}: {name} is of type {entry["dtype"]}; known are {" ".join(DTYPES)}'
            )
        begin, end = entry['data_offsets']
        array = np.frombuffer(
            memoryview(data)[start + begin : start + end], DTYPES[entry['dtype']]
        ).reshape(entry['shape'])
        tensors[name] = bfloat16(array) if entry['dtype'] == 'BF16' else array
    about = {name: _decoded(value) for name, value in about.items() if name != 'format'}
    return {**about, 'model': tensors} if about else tensors


def write(path: Path, tensors: dict, about: dict) -> None:
    """Write tensors and what is to be said of them, whole or not at all.

    By hand, tensor by tensor, because the library copies them all before it writes.
    """
    header, end = (
        {
            '__metadata__': {
                'format': 'pt',
                **{name: json.dumps(value) for name, value in about.items()},
            }
        },
        0,
    )
    # which keeps every tensor aligned
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    for name, array in ordered:
        kind = next(kind for kind, dtype in DTYPES.items() if dtype == array.dtype.name)
        header[name] = {
            'dtype': kind,
            'shape': array.shape,
            'data_offsets': [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with atomic.writing(path) as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for _, array in bar(ordered, 'tensors'):
            file.write(array.tobytes())


def _decoded(text: str):
    """Our own values are JSON; others' are plain text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def bfloat16(upper_bits: np.ndarray) -> np.ndarray:
    """float32 from the upper half of its bits, which is what bfloat16 is; NumPy has no such type."""
    return (upper_bits.astype('uint32') << 16).view('float32')
