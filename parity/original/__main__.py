"""The original in PyTorch: loads a weight file by itself, and writes what it computes from given inputs.

    python -I parity/original GIVEN.npz FOLDER

A program for an environment with torch, timm and transformers. It shares no line and no name map with the project, whose
mistakes must not repeat themselves here. GIVEN.npz: source (path), images [steps, N, C, S, S], noise [steps, N, L],
targets [steps, N, K], heads, decoder_heads, norm_pix_loss, lr, warmup, layer_decay, clip_grad; or source, heads and
pixels (path of an array [N, C, S, S]), which asks for scores alone. FOLDER gets about.json and, in files *.npz under
official names and in PyTorch's layout, weights, blocks, outputs, gradients and after (weights after the steps).
"""

import json
import math
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from model import Original  # repairs an import of torchvision, which timm and transformers make
from recipe import optimizer_of

# isort: split
import timm
import transformers
from torch import nn


def climb(original, folder):
    """Everything the ladder needs, each part on the disk before the next begins."""
    model, given = original.model.eval(), original.given
    np.savez(folder / 'weights.npz', **original.official(dict(original.tensors())))
    seen, hooks = {}, []
    for stack, blocks in original.stacks.items():
        hooks.append(
            blocks[0].register_forward_pre_hook(
                lambda block, inputs, name=f'{stack}.input': seen.update({name: inputs[0].numpy()})
            )
        )
        hooks += [
            block.register_forward_hook(
                lambda block, inputs, out, name=f'{stack}.{i}': seen.update({name: out.numpy()})
            )
            for i, block in enumerate(blocks)
        ]
    with torch.no_grad():
        outputs = {name: value.numpy() for name, value in original.outputs(0).items()}
    for hook in hooks:
        hook.remove()
    np.savez(folder / 'blocks.npz', **seen)
    seen.clear()
    model.train()
    loss = original.outputs(0)['loss']
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    np.savez(folder / 'gradients.npz', **original.official(gradients))
    del gradients

    optimizer, losses, steps = optimizer_of(original), [], len(given['images'])
    lr, warmup = float(given['lr']), int(given['warmup'])
    for i in range(steps):
        share = (
            i / warmup
            if i < warmup
            else 0.5 * (1 + math.cos(math.pi * (i - warmup) / (steps - warmup)))
        )
        for group in optimizer.param_groups:
            group['lr'] = lr * share * group.get('lr_scale', 1.0)
        optimizer.zero_grad()
        step_loss = original.outputs(i)['loss']
        step_loss.backward()
        if math.isfinite(given['clip_grad']):
            nn.utils.clip_grad_norm_(model.parameters(), float(given['clip_grad']))
        optimizer.step()
        losses.append(step_loss.item())
    np.savez(folder / 'after.npz', **original.official(dict(original.tensors())))
    np.savez(
        folder / 'outputs.npz',
        **{**outputs, 'loss': loss.detach().numpy()},
        losses=np.array(losses, 'float32'),
    )


def main(given, folder):
    folder, original = Path(folder), Original(dict(np.load(given)))
    torch.manual_seed(0)
    if 'pixels' in original.given:
        original.model.eval()
        pixels = np.load(str(original.given['pixels']), mmap_mode='r')
        with torch.no_grad():
            scores = [
                original.scores(torch.tensor(pixels[i : i + 16])).numpy()
                for i in range(0, len(pixels), 16)
            ]
        np.save(folder / 'scores.npy', np.concatenate(scores))
    else:
        climb(original, folder)
    unit = 1 if sys.platform == 'darwin' else 1024
    (folder / 'about.json').write_text(
        json.dumps(
            {
                'original': original.label,
                'names': original.code_base,
                'threads': torch.get_num_threads(),
                'peak_memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                * unit
                // 2**20,
                'versions': {
                    'python': sys.version.split()[0],
                    'torch': torch.__version__,
                    'timm': timm.__version__,
                    'transformers': transformers.__version__,
                    'numpy': np.__version__,
                },
            }
        )
    )


main(*sys.argv[1:])
