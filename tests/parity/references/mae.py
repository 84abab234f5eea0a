"""Hugging Face's ViTMAEForPreTraining: loss, prediction, mask, gradients, and training with the official recipe."""
import math
import re
import sys

import numpy as np
import torch_ready  # noqa: F401  before transformers

# isort: split
import torch
from timm.optim import param_groups_weight_decay
from transformers import ViTMAEConfig, ViTMAEForPreTraining

NAMES = [(r'^vit\.embeddings\.cls_token', 'cls_token'), (r'^vit\.embeddings\.position_embeddings', 'pos_embed'),
         (r'^vit\.embeddings\.patch_embeddings\.projection', 'patch_embed.proj'), (r'^vit\.layernorm', 'norm'),
         (r'^vit\.layers', 'blocks'), (r'^decoder\.decoder_layers', 'decoder_blocks'), (r'^decoder\.', ''),
         (r'layernorm_before', 'norm1'), (r'layernorm_after', 'norm2'), (r'attention\.o_proj', 'attn.proj')]


def official(tensors):
    """Under the names of facebookresearch/mae, query, key and value joined."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.detach().numpy()
    for name in [name for name in renamed if '.q_proj.' in name]:
        parts = [renamed.pop(name.replace('q_proj', f'{letter}_proj')) for letter in 'qkv']
        renamed[name.replace('attention.q_proj', 'attn.qkv')] = np.concatenate(parts)
    return renamed


def main(given, computed):
    given = dict(np.load(given))
    config = ViTMAEConfig(
        image_size=int(given['size']), patch_size=int(given['patch']), num_channels=given['images'].shape[2],
        hidden_size=int(given['width']), num_hidden_layers=int(given['depth']), num_attention_heads=int(given['heads']),
        intermediate_size=4 * int(given['width']), decoder_hidden_size=int(given['decoder_width']),
        decoder_num_hidden_layers=int(given['decoder_depth']), decoder_num_attention_heads=int(given['decoder_heads']),
        decoder_intermediate_size=4 * int(given['decoder_width']), layer_norm_eps=1e-6,
        norm_pix_loss=bool(given['norm_pix_loss']), attn_implementation='eager')
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(config).train()
    for parameter in model.parameters():  # nothing may stay at 0 or 1, where a mistake would not show
        parameter.data += 0.02 * torch.randn_like(parameter)
    start = official(dict(model.named_parameters()))
    start = {name: value.copy() for name, value in start.items()}

    out = model(torch.tensor(given['images'][0]), noise=torch.tensor(given['noise'][0]))
    out.loss.backward()
    gradients = official({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    arrays = {'loss': out.loss.item(), 'pred': out.logits.detach().numpy(), 'mask': out.mask.numpy()}

    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.05), lr=1e-3, betas=(0.9, 0.95))
    losses, steps = [], len(given['images'])
    for i in range(steps):
        lr = 1e-3 * i / 5 if i < 5 else 1e-3 * 0.5 * (1 + math.cos(math.pi * (i - 5) / (steps - 5)))
        for group in optimizer.param_groups:
            group['lr'] = lr
        optimizer.zero_grad()
        loss = model(torch.tensor(given['images'][i]), noise=torch.tensor(given['noise'][i])).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    end = official(dict(model.named_parameters()))
    np.savez(computed, losses=losses, **arrays, **{f'start/{name}': value for name, value in start.items()},
             **{f'grad/{name}': value for name, value in gradients.items()},
             **{f'end/{name}': value for name, value in end.items()})


main(*sys.argv[1:])
