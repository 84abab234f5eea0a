"""Import this before mmseg, so that mmseg accepts mmcv-lite.

mmseg asks for compiled operators, which mmcv-lite lacks and our models do not use. It also refuses
the version of mmcv-lite that requirements/parity.txt pins for mmpretrain.
"""

import sys
import types

import torch_ready  # noqa: F401  before mmcv

# isort: split
import mmcv


class Absent(types.ModuleType):
    """A module from which every operator can be imported, but none can be used."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {'__init__': fail})


def fail(self, *_, **__):
    raise NotImplementedError(f'mmcv-lite has no {type(self).__name__}')


mmcv.__version__ = '2.1.0'
sys.modules['mmcv.ops'] = Absent('mmcv.ops')
