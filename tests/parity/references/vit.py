"""timm's VisionTransformer: logits, gradients, and fine-tuning steps with timm's own layer-decay groups."""
import sys
from functools import partial

import numpy as np
import torch_ready  # noqa: F401  before timm

# isort: split
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay


def main(given, computed):
    given = dict(np.load(given))
    torch.manual_seed(0)
    pool = 'avg' if given['global_pool'] else 'token'
    model = VisionTransformer(img_size=32, patch_size=4, num_classes=10, embed_dim=96, depth=4, num_heads=3,
                              global_pool=pool, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))
    for parameter in model.parameters():  # nothing may stay at 0 or 1, where a mistake would not show
        parameter.data += 0.02 * torch.randn_like(parameter)
    arrays = {f'start/{name}': p.detach().numpy().copy() for name, p in model.named_parameters()}
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.65)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999))
    for i, (images, targets) in enumerate(zip(given['images'], given['targets'])):
        for group in optimizer.param_groups:
            group['lr'] = 1e-3 * (i + 1) / 5 * group['lr_scale']
        logits = model(torch.tensor(images))
        loss = torch.sum(-torch.tensor(targets) * torch.log_softmax(logits, dim=-1), dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        if i == 0:
            arrays |= {f'grad/{name}': p.grad.numpy().copy() for name, p in model.named_parameters()}
            arrays |= {'logits': logits.detach().numpy(), 'loss': loss.item()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), float(given['clip']))
        optimizer.step()
    np.savez(computed, **arrays, **{f'end/{name}': p.detach().numpy() for name, p in model.named_parameters()})


main(*sys.argv[1:])
