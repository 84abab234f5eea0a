"""Write files by torch.save in the working folder, and read given ones by torch.load."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / 'data'))

# isort: split
import make_torch_files


def training_state():
    """A checkpoint like facebookresearch/mae's, after two steps of AdamW."""
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model.register_buffer('mask', torch.rand(4, 4) < 0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4, betas=(0.9, 0.95))
    for _ in range(2):
        model(torch.randn(2, 4, 16)).square().mean().backward()
        optimizer.step()
    halves = {name: model.to(getattr(torch, name)).state_dict() for name in ('float16', 'bfloat16')}
    halves['odd'] = torch.tensor([0x7FC1, -1, 0x7F80, 1, -0x8000], dtype=torch.int16).view(
        torch.bfloat16
    )
    return {
        'model': model.float().state_dict(),
        'optimizer': optimizer.state_dict(),
        'epoch': 1,
        'scaler': torch.amp.GradScaler('cpu').state_dict(),
        'halves': halves,
        'args': argparse.Namespace(
            batch_size=64, blr=1.5e-4, lr=None, model='mae', norm_pix_loss=True, rates=[1, 2.5]
        ),
    }


def refused():
    module = torch.nn.Linear(2, 2)
    torch.jit.script(module).save('script.pth')
    torch.save({'model': module}, 'module.pth')
    torch.save({'x': torch.eye(2).to_sparse()}, 'sparse.pth')
    torch.save({'x': torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8)}, 'quantized.pth')
    torch.save({'x': torch.zeros(2, dtype=torch.complex64).conj().imag}, 'negated.pth')


def leaves(value, name=''):
    """(place, array) of every leaf: bfloat16 as float32, other things than tensors as text."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f'{name}/{key}')
    elif isinstance(value, torch.Tensor):
        yield name, (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
    else:
        yield (
            name,
            value if isinstance(value, np.ndarray) else np.array(str(value).removeprefix('torch.')),
        )


def main(given, computed):
    make_torch_files.save(Path())
    torch.save(training_state(), 'training.pth')
    torch.save(training_state(), 'training_legacy.pth', _use_new_zipfile_serialization=False)
    refused()
    np.savez(
        computed,
        **{
            f'{file}:{name}': array
            for file in np.load(given)['files'].tolist()
            for name, array in leaves(torch.load(file, weights_only=False))
        },
    )


main(*sys.argv[1:])
