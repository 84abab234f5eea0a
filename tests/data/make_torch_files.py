"""Make torch/zip.pth and torch/legacy.pth: small, with all that our reader of PyTorch files knows.

    .venv-parity/bin/python tests/data/make_torch_files.py tests/data/torch

tests/test_torch_file.py has the same values by NumPy; tests/originals/test_torch_file.py makes the
files again and compares.
"""

import argparse
import collections
import pathlib
import sys

import numpy as np
import torch

FLOATS = 'float64 float32 float16 bfloat16'.split()
INTEGERS = 'int64 int32 int16 int8 uint8'.split()


def state_dict():
    """OrderedDict with _metadata, as a module returns it."""
    module = torch.nn.BatchNorm1d(3)
    module.weight.data = torch.arange(3.0)
    return module.state_dict()


def tree():
    count = torch.arange(6).reshape(2, 3)
    base = torch.arange(24.0)
    parameter = torch.nn.Parameter(base[:2].clone())
    annotated = torch.nn.Parameter(base[2:4].clone(), requires_grad=False)
    annotated.note = 'kept by _rebuild_parameter_with_state'
    return {
        'model': {
            **{name: (count / 4 - 0.5).to(getattr(torch, name)) for name in FLOATS},
            **{name: (count * 7).to(getattr(torch, name)) for name in INTEGERS},
            'bool': count % 2 == 0,
            'scalar': torch.tensor(1.5),
            'empty': torch.zeros(0, 3),
            'transposed': base.reshape(4, 6).t(),
            'slice': base[5:20:3],
            'window': base.reshape(2, 3, 4)[:, 1:, 2],
            'expanded': base[7].expand(2, 3),
            'shared': [base[:10], base[8:]],
            'parameter': parameter,
            'annotated': annotated,
        },
        'state_dict': state_dict(),
        'epoch': 3,
        'scaler': None,
        'rates': [0.1, np.float64(0.25)],
        'array': np.arange(3),
        'args': argparse.Namespace(
            model='mae', lr=1e-3, folder=pathlib.PosixPath('/a/b'), more=argparse.Namespace(n=1)
        ),
        'size': torch.Size([2, 3]),
        'dtype': torch.bfloat16,
        'device': torch.device('cuda:1'),
        'default': collections.defaultdict(list, a=[1]),
        'counter': collections.Counter([5, 5]),
        'set': {1, 2},
    }


def save(folder):
    torch.save(tree(), folder / 'zip.pth')
    torch.save(tree(), folder / 'legacy.pth', _use_new_zipfile_serialization=False)


if __name__ == '__main__':
    save(pathlib.Path(sys.argv[1]))
