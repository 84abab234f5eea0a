"""PyTorch files read without PyTorch equal torch.load's: tensors bit for bit, the rest as text."""

import numpy as np
import pytest
from conftest import ROOT

from util import weights
from util.errors import InputError

CHECKED_IN = ROOT / 'tests/data/torch'


def leaves(value, name=''):
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f'{name}/{key}')
    else:
        yield name, value if isinstance(value, np.ndarray) else np.array(str(value))


def assert_bit_equal(ours, theirs):
    assert list(ours) == list(theirs) and len(ours) > 30
    for name, array in theirs.items():
        found = ours[name].dtype, ours[name].shape, ours[name].tobytes()
        assert found == (array.dtype, array.shape, array.tobytes()), name


def test_reading_equals_torch_load_in_both_formats(reference, tmp_path):
    fresh = [
        str(tmp_path / name)
        for name in ('zip.pth', 'legacy.pth', 'training.pth', 'training_legacy.pth')
    ]
    checked_in = [str(CHECKED_IN / name) for name in ('zip.pth', 'legacy.pth')]
    loaded = reference('torch_file', files=[*fresh, *checked_in])
    for file in [*fresh, *checked_in]:
        theirs = {
            name.removeprefix(f'{file}:'): array
            for name, array in loaded.items()
            if name.startswith(f'{file}:')
        }
        assert_bit_equal(dict(leaves(weights.read(file))), theirs)
    for old, new in zip(checked_in, fresh):
        assert_bit_equal(dict(leaves(weights.read(old))), dict(leaves(weights.read(new))))


def test_what_is_no_dense_tensor_of_weights_is_refused(reference, tmp_path):
    reference('torch_file', files=np.array([], str))
    for name, said in [
        ('script', 'is a TorchScript program'),
        ('module', 'names torch.nn.modules.linear.Linear'),
        ('sparse', 'names torch._utils._rebuild_sparse_tensor'),
        ('negated', 'still to be negated'),
        ('quantized', 'names torch._utils._rebuild_qtensor'),
    ]:
        with pytest.raises(InputError, match=said):
            weights.read(tmp_path / f'{name}.pth')
