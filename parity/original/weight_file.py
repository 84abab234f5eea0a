"""Weight files as PyTorch reads them, and the official names in those of other code bases."""

import argparse
import re

import torch
from safetensors.torch import load_file

# of a block: official name -> Hugging Face's, as transformers 5 has it in memory
PARTS = {
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.proj': 'attention.o_proj',
    'mlp.fc1': 'mlp.fc1',
    'mlp.fc2': 'mlp.fc2',
}
STEMS = {
    'cls_token': 'vit.embeddings.cls_token',
    'pos_embed': 'vit.embeddings.position_embeddings',
    'patch_embed.proj': 'vit.embeddings.patch_embeddings.projection',
    'norm': 'vit.layernorm',
    'head': 'classifier',
    'mask_token': 'decoder.mask_token',
    'decoder_pos_embed': 'decoder.decoder_pos_embed',
    'decoder_embed': 'decoder.decoder_embed',
    'decoder_norm': 'decoder.decoder_norm',
    'decoder_pred': 'decoder.decoder_pred',
}
OPEN_MMLAB = [
    (r'^backbone\.layers\.', 'blocks.'),
    (r'^neck\.decoder_blocks\.', 'decoder_blocks.'),
    (r'^backbone\.patch_embed\.projection', 'patch_embed.proj'),
    (r'\.ln(\d)', r'.norm\1'),
    (r'ffn\.layers\.0\.0', 'mlp.fc1'),
    (r'ffn\.layers\.1', 'mlp.fc2'),
    (r'^backbone\.norm1', 'norm'),
    (r'^backbone\.norm2', 'fc_norm'),
    (r'^neck\.norm1', 'decoder_norm'),
    (r'^neck\.bn', 'head.0'),
    (r'^head\.(fc|layers\.head)', 'head'),
    (r'^(backbone|neck)\.', ''),
]


def hugging_face(name):
    """The names that make up an official one in Hugging Face's model: three for query, key and value."""
    if found := re.match(r'(decoder_)?blocks\.(\d+)\.(.+)\.(weight|bias)$', name):
        decoder, number, part, suffix = found.groups()
        stem = f'decoder.decoder_layers.{number}' if decoder else f'vit.layers.{number}'
        parts = (
            [f'attention.{letter}_proj' for letter in 'qkv']
            if part == 'attn.qkv'
            else [PARTS[part]]
        )
        return [f'{stem}.{part}.{suffix}' for part in parts]
    stem, suffix = re.match(r'(.+?)(\.weight|\.bias)?$', name).groups()
    return [STEMS[stem] + (suffix or '')]


def load(path):
    """(code base, tensors) of a file; the average of the weights where a run kept one. OpenMMLab's get official names."""
    with open(path, 'rb') as file:
        is_safetensors = file.read(9)[8:] == b'{'
    if is_safetensors:
        contents = load_file(path)
    else:
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(path, map_location='cpu', weights_only=True)
    key = next(
        (
            key
            for key in ('ema', 'model', 'state_dict', 'model_ema', 'state_dict_ema')
            if isinstance(contents.get(key), dict)
        ),
        None,
    )
    tensors = {
        re.sub(r'^((module|_orig_mod)\.)+', '', name): tensor.float()
        for name, tensor in (contents[key] if key else contents).items()
    }
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith('data_preprocessor.')
    }
    if 'backbone.cls_token' in tensors:
        return 'OpenMMLab', _probe_of(dict(map(_official, tensors.items())))
    is_hugging_face = any('embeddings.cls_token' in name for name in tensors)
    return (
        ('Hugging Face', tensors) if is_hugging_face else ('official or timm', _probe_of(tensors))
    )


def _official(item):
    name, tensor = item
    for pattern, replacement in OPEN_MMLAB:
        name = re.sub(pattern, replacement, name)
    return name, tensor


def _probe_of(tensors):
    """A linear probe's head is behind its normalisation, which some files count in a tensor more than others."""
    if 'head.0.running_mean' in tensors:
        tensors = {
            re.sub(r'^head\.(?=weight|bias)', 'head.1.', name): tensor
            for name, tensor in tensors.items()
        }
        tensors.setdefault('head.0.num_batches_tracked', torch.tensor(0))
    return tensors
