"""Train as the official programs do, save their checkpoint after half of the epochs, and go on.

    python official_training.py GIVEN.npz COMPUTED.npz

GIVEN: flags (JSON: kind, folder, size and the official flags); images
[epochs, iterations, N, C, side, side], noise [epochs, iterations, N, L], labels
[epochs, iterations, N]. COMPUTED: losses [epochs, iterations], and each tensor in the end.

Groups, order, optimizers, schedule and the keys of the checkpoint are those of
facebookresearch/mae @ efb2a80, whose models have timm's layers.
"""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch_ready  # noqa: F401  before timm

# isort: split
import torch
from timm.models.vision_transformer import Block, PatchEmbed, VisionTransformer
from torch import nn

Norm = partial(nn.LayerNorm, eps=1e-6)


class Autoencoder(nn.Module):
    """The masked autoencoder under its official names."""

    def __init__(self, size):
        super().__init__()
        self.patch_embed = PatchEmbed(size['image'], size['patch'], size['channels'], size['width'])
        length, narrow = self.patch_embed.num_patches + 1, size['decoder_width']
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, size['width']))
        self.pos_embed = self.fixed(length, size['width'])
        self.blocks = self.stack(size['width'], size['heads'], size['depth'])
        self.norm = Norm(size['width'])
        self.decoder_embed = nn.Linear(size['width'], narrow)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, narrow))
        self.decoder_pos_embed = self.fixed(length, narrow)
        self.decoder_blocks = self.stack(narrow, size['decoder_heads'], size['decoder_depth'])
        self.decoder_norm = Norm(narrow)
        self.decoder_pred = nn.Linear(narrow, size['patch'] ** 2 * size['channels'])

    @staticmethod
    def fixed(length, width):
        return nn.Parameter(torch.randn(1, length, width), requires_grad=False)

    @staticmethod
    def stack(width, heads, depth):
        return nn.ModuleList(
            Block(width, heads, 4, qkv_bias=True, norm_layer=Norm) for _ in range(depth)
        )

    def forward(self, images, noise, ratio):
        # the patches with the smallest noise are visible
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        N, L, D = x.shape
        order = noise.argsort(1)
        place = order.argsort(1)
        visible = int(L * (1 - ratio))
        x = x.gather(1, order[:, :visible, None].expand(-1, -1, D))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(N, -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))

        # mask tokens in the place of the others
        tokens = self.mask_token.expand(N, L - visible, -1)
        patches = torch.cat([x[:, 1:], tokens], 1)
        patches = patches.gather(1, place[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        predicted = self.decoder_pred(self.decoder_norm(x))[:, 1:]

        # within a patch: row, column, channel
        p = self.patch_embed.patch_size[0]
        side = images.shape[-1] // p
        target = images.reshape(N, -1, side, p, side, p).permute(0, 2, 4, 3, 5, 1)
        errors = (predicted - target.reshape(N, L, -1)).square().mean(-1)
        removed = (place >= visible).float()
        return (errors * removed).sum() / removed.sum()


def classifier(size, probe):
    model = VisionTransformer(
        img_size=size['image'],
        patch_size=size['patch'],
        in_chans=size['channels'],
        num_classes=size['classes'],
        embed_dim=size['width'],
        depth=size['depth'],
        num_heads=size['heads'],
        global_pool='token' if probe else 'avg',
        norm_layer=Norm,
    )
    nn.init.trunc_normal_(model.head.weight, std=0.01)
    if probe:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        norm = nn.BatchNorm1d(size['width'], affine=False, eps=1e-6)
        model.head = nn.Sequential(norm, model.head)
    else:
        # the official class adds this normalisation behind the head
        norm = model.fc_norm
        del model.fc_norm
        model.fc_norm = norm
    return model


class Lars(torch.optim.Optimizer):
    """The optimizer of the official probe."""

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(
            parameters, dict(lr=lr, weight_decay=weight_decay, momentum=0.9, trust_coefficient=1e-3)
        )

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                update = p.grad
                if p.ndim > 1:
                    update = update + group['weight_decay'] * p
                    if p.norm() > 0 and update.norm() > 0:
                        update = update * (group['trust_coefficient'] * p.norm() / update.norm())
                mu = self.state[p].setdefault('mu', torch.zeros_like(p))
                mu.mul_(group['momentum']).add_(update)
                p.sub_(group['lr'] * mu)


def two_groups(model, decay):
    """Pre-training: those without weight decay first."""
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim == 1 or name.endswith('.bias')
            (plain if is_plain else decayed).append(parameter)
    return [
        {'params': plain, 'weight_decay': 0.0},
        {'params': decayed, 'weight_decay': decay},
    ]


def layer_groups(model, decay, layer_decay):
    """Fine-tuning: a group for each layer and decay, in the order in which they are met."""
    last, groups = len(model.blocks) + 1, {}
    for name, parameter in model.named_parameters():
        if name in ('cls_token', 'pos_embed') or name.startswith('patch_embed'):
            layer = 0
        else:
            layer = int(name.split('.')[1]) + 1 if name.startswith('blocks') else last
        is_plain = parameter.ndim == 1 or name in ('cls_token', 'pos_embed')
        group = {
            'lr_scale': layer_decay ** (last - layer),
            'weight_decay': 0.0 if is_plain else decay,
            'params': [],
        }
        groups.setdefault((layer, is_plain), group)['params'].append(parameter)
    return list(groups.values())


def rate(flags, epoch):
    """The official schedule at a fractional epoch."""
    warmup, lr, floor = flags['warmup_epochs'], flags['lr'], flags['min_lr']
    if epoch < warmup:
        return lr * epoch / warmup
    progress = (epoch - warmup) / (flags['epochs'] - warmup)
    return floor + (lr - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def main(given, computed):
    given = np.load(given)
    flags = json.loads(str(given['flags']))
    kind, folder, size = (flags.pop(name) for name in ('kind', 'folder', 'size'))
    images, noise, labels = (
        torch.from_numpy(given[name]) for name in ('images', 'noise', 'labels')
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    flags['lr'] = flags['blr'] * flags['batch_size'] * flags['accum_iter'] / 256

    if kind == 'pretrain':
        model = Autoencoder(size)
        groups = two_groups(model, flags['weight_decay'])
        optimizer = torch.optim.AdamW(groups, lr=flags['lr'], betas=(0.9, 0.95))
    elif kind == 'finetune':
        model = classifier(size, probe=False)
        groups = layer_groups(model, flags['weight_decay'], flags['layer_decay'])
        optimizer = torch.optim.AdamW(groups, lr=flags['lr'])
    else:
        model = classifier(size, probe=True)
        optimizer = Lars(model.head.parameters(), flags['lr'], flags['weight_decay'])
    criterion = nn.CrossEntropyLoss(label_smoothing=flags.get('smoothing', 0.0))

    model.train()
    losses = []
    optimizer.zero_grad()
    for epoch in range(flags['epochs']):
        for i in range(images.shape[1]):
            if i % flags['accum_iter'] == 0:
                lr = rate(flags, epoch + i / images.shape[1])
                for group in optimizer.param_groups:
                    group['lr'] = lr * group.get('lr_scale', 1.0)
            if kind == 'pretrain':
                loss = model(images[epoch, i], noise[epoch, i], flags['mask_ratio'])
            else:
                loss = criterion(model(images[epoch, i]), labels[epoch, i])
            losses.append(loss.item())
            (loss / flags['accum_iter']).backward()
            if (i + 1) % flags['accum_iter'] == 0:
                optimizer.step()
                optimizer.zero_grad()
        if epoch + 1 == flags['epochs'] // 2:
            checkpoint = {
                'model': model.state_dict(),
                'optimizer': optimizer.state_dict(),
                'epoch': epoch,
                'scaler': {},
                'args': argparse.Namespace(**flags),
            }
            torch.save(checkpoint, Path(folder) / f'checkpoint-{epoch}.pth')
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(computed, losses=np.reshape(losses, images.shape[:2]), **tensors)


main(*sys.argv[1:])
