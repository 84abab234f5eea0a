"""The safetensors format (huggingface/safetensors)."""

import json
from pathlib import Path

import numpy as np
import safetensors

from util import atomic
from util.errors import InputError
from util.progress import bar
from util.weights.mapped import mapped

DTYPES = {
    'F64': 'float64',
    'F32': 'float32',
    'F16': 'float16',
    'BF16': 'uint16',  # the upper half of a float32
    'I64': 'int64',
    'I32': 'int32',
    'I16': 'int16',
    'I8': 'int8',
    'U8': 'uint8',
    'BOOL': 'bool',
}


def read(path: Path) -> dict:
    """All tensors as NumPy arrays, bfloat16 as float32.

    If the file has metadata, the tensors are under 'model', beside the metadata. InputError if the
    file is damaged or of another format.
    """
    try:
        with safetensors.safe_open(path, 'np'):  # compares the header with the file's length
            data = mapped(path)
    except safetensors.SafetensorError as error:
        raise InputError(f'{path} is not a complete safetensors file: {error}') from None
    header_length = int.from_bytes(data[:8], 'little')
    start = 8 + header_length
    header = json.loads(bytes(data[8:start]))
    metadata = header.pop('__metadata__', {})

    # arrays are views of the data; the library would copy them
    values = data[start:]
    tensors = {}
    for name, entry in header.items():
        kind = entry['dtype']
        if kind not in DTYPES:
            raise InputError(f'{path}: {name} is of type {kind}; known are {" ".join(DTYPES)}')
        begin, end = entry['data_offsets']
        array = np.frombuffer(values[begin:end], DTYPES[kind]).reshape(entry['shape'])
        tensors[name] = bfloat16(array) if kind == 'BF16' else array

    about = {}
    for name, text in metadata.items():
        if name != 'format':
            about[name] = _decoded(text)
    return {**about, 'model': tensors} if about else tensors


def write(path: Path, tensors: dict, about: dict) -> None:
    """Write tensors and metadata, completely or not at all.

    The file is written tensor by tensor, because the library would copy all of them first.
    """
    metadata = {'format': 'pt'}
    for name, value in about.items():
        metadata[name] = json.dumps(value)
    header = {'__metadata__': metadata}

    # the widest types first, which keeps every tensor aligned
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    begin = 0
    for name, array in ordered:
        end = begin + array.nbytes
        kind = kinds[array.dtype.name]
        header[name] = {'dtype': kind, 'shape': array.shape, 'data_offsets': [begin, end]}
        begin = end

    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with atomic.writing(path) as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for _, array in bar(ordered, 'tensors'):
            file.write(array.tobytes())


def _decoded(text: str):
    """A value of the metadata: ours are JSON, those of other programs are plain text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def bfloat16(upper_bits: np.ndarray) -> np.ndarray:
    """float32 from bfloat16, given as uint16: the upper half of the bits. NumPy has no bfloat16."""
    return (upper_bits.astype('uint32') << 16).view('float32')
