"""Weight files of random models, as the originals' code bases write them.

Every tensor is perturbed, so that none stays at 0 or 1, where a mistake would not show.

    python make_files.py GIVEN.npz COMPUTED.npz

GIVEN: size (JSON: image, patch, width, depth, heads ...), kinds, classes
"""

import argparse
import json
import os
import sys
from functools import partial

import numpy as np
import torch_ready  # noqa: F401  before timm and transformers

# isort: split
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining


def perturbed(model):
    torch.manual_seed(0)
    for tensor in [
        *model.parameters(),
        *(buffer for buffer in model.buffers() if buffer.is_floating_point()),
    ]:
        tensor.data += (
            0.02 * torch.randn_like(tensor).abs()
            if tensor.ndim == 0
            else 0.02 * torch.randn_like(tensor)
        )
    return model


def vit(size, classes, pool, probe=False):
    """Tensors under official names, which are timm's."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=size['image'],
        patch_size=size['patch'],
        num_classes=classes,
        embed_dim=size['width'],
        depth=size['depth'],
        num_heads=size['heads'],
        global_pool=pool,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    if probe:
        model.head = nn.Sequential(
            nn.BatchNorm1d(size['width'], affine=False, eps=1e-6), model.head
        )
    return perturbed(model).state_dict()


def hugging_face(size):
    return dict(
        image_size=size['image'],
        patch_size=size['patch'],
        hidden_size=size['width'],
        num_hidden_layers=size['depth'],
        num_attention_heads=size['heads'],
        intermediate_size=4 * size['width'],
        layer_norm_eps=1e-6,
    )


def autoencoder(size):
    torch.manual_seed(0)
    return perturbed(
        ViTMAEForPreTraining(
            ViTMAEConfig(
                **hugging_face(size),
                decoder_hidden_size=size['decoder_width'],
                decoder_num_hidden_layers=size['decoder_depth'],
                decoder_num_attention_heads=size['decoder_heads'],
                decoder_intermediate_size=4 * size['decoder_width'],
            )
        )
    )


def official(size):
    """A whole pre-training model under official names, with timm's layers as in the original."""
    encoder = vit(size, 0, 'token')
    decoder = vit(
        {
            **size,
            'width': size['decoder_width'],
            'depth': size['decoder_depth'],
            'heads': size['decoder_heads'],
        },
        0,
        'token',
    )
    tensors = dict(encoder)
    tensors['mask_token'] = decoder['cls_token']
    tensors['decoder_pos_embed'] = decoder['pos_embed']
    tensors |= {
        f'decoder_{name}': tensor
        for name, tensor in decoder.items()
        if name.startswith(('blocks.', 'norm.'))
    }
    for name, rows in (
        ('embed', (size['decoder_width'], size['width'])),
        ('pred', (3 * size['patch'] ** 2, size['decoder_width'])),
    ):
        linear = perturbed(nn.Linear(rows[1], rows[0])).state_dict()
        tensors |= {f'decoder_{name}.{key}': value for key, value in linear.items()}
    return tensors


def save(kind, size, classes):
    """<kind>.pth or .safetensors in the working folder."""
    if kind == 'full':
        torch.save(
            {'model': official(size), 'args': argparse.Namespace(norm_pix_loss=True)}, 'full.pth'
        )
    elif kind == 'encoder':
        torch.save({'model': vit(size, 0, 'token')}, 'encoder.pth')
    elif kind in ('pooled', 'class_token', 'probe'):
        torch.save(
            {'model': vit(size, classes, 'avg' if kind == 'pooled' else 'token', kind == 'probe')},
            f'{kind}.pth',
        )
    elif kind == 'hf_full':
        autoencoder(size).save_pretrained('hf')
        os.replace('hf/model.safetensors', 'hf_full.safetensors')
    elif kind == 'hf_classifier':
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**hugging_face(size), num_labels=classes))
        perturbed(model).save_pretrained('hf_vit')
        os.replace('hf_vit/model.safetensors', 'hf_classifier.safetensors')


def main(given, computed):
    given = dict(np.load(given))
    for kind in given['kinds'].tolist():
        save(kind, json.loads(str(given['size'])), int(given['classes']))
    np.savez(computed, made=given['kinds'])


main(*sys.argv[1:])
