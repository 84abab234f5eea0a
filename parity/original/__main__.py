"""The original in PyTorch: loads a weight file by itself and computes from given inputs.

    python -I parity/original GIVEN.npz FOLDER

A program for an environment with torch, timm and transformers. It shares no line and no name map
with the project, so that a mistake there cannot repeat itself here.

GIVEN.npz: source (path), use_ema, images [steps, N, C, S, S], noise [steps, N, L],
targets [steps, N, K], heads, decoder_heads, norm_pix_loss, lr, warmup, layer_decay, clip_grad. Or,
for scores alone: source, use_ema, heads and pixels (path of an array [N, C, S, S]).

FOLDER gets about.json and, under official names and in PyTorch's layout, weights.npz, blocks.npz,
outputs.npz, gradients.npz and after.npz (weights after the steps); for scores alone scores.npy.
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

BATCH = 16  # images a forward pass, for scores alone


def climb(original, folder):
    """Write everything that the ladder needs, each part before the next begins."""
    model = original.model.eval()
    np.savez(folder / 'weights.npz', **original.official(dict(original.tensors())))
    seen, outputs = forward(original)
    np.savez(folder / 'blocks.npz', **seen)
    seen.clear()

    model.train()
    loss = original.outputs(0)['loss']
    loss.backward()
    outputs['loss'] = loss.detach().numpy()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    np.savez(folder / 'gradients.npz', **original.official(gradients))
    del gradients

    outputs['losses'] = np.array(train(original), 'float32')
    np.savez(folder / 'after.npz', **original.official(dict(original.tensors())))
    np.savez(folder / 'outputs.npz', **outputs)


def forward(original):
    """(the input of each stack and the output of each block; the model's outputs), of batch 0."""
    seen = {}
    hooks = []
    for stack, blocks in original.stacks.items():
        hooks.append(blocks[0].register_forward_pre_hook(keep_input(seen, f'{stack}.input')))
        for i, block in enumerate(blocks):
            hooks.append(block.register_forward_hook(keep_output(seen, f'{stack}.{i}')))
    with torch.no_grad():
        outputs = {name: value.numpy() for name, value in original.outputs(0).items()}
    for hook in hooks:
        hook.remove()
    return seen, outputs


def keep_input(seen, name):
    """A hook that keeps what a block gets."""

    def hook(block, inputs):
        seen[name] = inputs[0].numpy()

    return hook


def keep_output(seen, name):
    """A hook that keeps what a block gives."""

    def hook(block, inputs, output):
        seen[name] = output.numpy()

    return hook


def train(original):
    """The losses of the optimizer steps, one for each batch."""
    given = original.given
    clip_grad = float(given['clip_grad'])
    optimizer = optimizer_of(original)
    losses = []
    for i in range(len(given['images'])):
        rate = rate_of(i, given)
        for group in optimizer.param_groups:
            group['lr'] = rate * group.get('lr_scale', 1.0)
        optimizer.zero_grad()
        loss = original.outputs(i)['loss']
        loss.backward()
        if math.isfinite(clip_grad):
            nn.utils.clip_grad_norm_(original.model.parameters(), clip_grad)
        optimizer.step()
        losses.append(loss.item())
    return losses


def rate_of(step, given):
    """The learning rate of a step: a linear warm-up, then half a cosine."""
    lr, warmup = float(given['lr']), int(given['warmup'])
    if step < warmup:
        return lr * (step / warmup)
    steps = len(given['images'])
    angle = math.pi * (step - warmup) / (steps - warmup)
    return lr * (0.5 * (1 + math.cos(angle)))


def scores_of(original, pixels):
    """The scores of images [N, C, S, S], an array [N, K]."""
    original.model.eval()
    scores = []
    with torch.no_grad():
        for start in range(0, len(pixels), BATCH):
            images = torch.tensor(pixels[start : start + BATCH])
            scores.append(original.scores(images).numpy())
    return np.concatenate(scores)


def about(original):
    """What about.json tells: the model, its environment and its memory."""
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes in a unit of ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        'original': original.label,
        'names': original.code_base,
        'threads': torch.get_num_threads(),
        'peak_memory_mb': peak // 2**20,
        'versions': {
            'python': sys.version.split()[0],
            'torch': torch.__version__,
            'timm': timm.__version__,
            'transformers': transformers.__version__,
            'numpy': np.__version__,
        },
    }


def main(given, folder):
    folder = Path(folder)
    original = Original(dict(np.load(given)))
    torch.manual_seed(0)
    if 'pixels' in original.given:
        pixels = np.load(str(original.given['pixels']), mmap_mode='r')
        np.save(folder / 'scores.npy', scores_of(original, pixels))
    else:
        climb(original, folder)
    (folder / 'about.json').write_text(json.dumps(about(original)))


main(*sys.argv[1:])
