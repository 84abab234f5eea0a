"""The optimizer of the recipe that the weights are for."""

import re

import torch
from timm.optim import param_groups_weight_decay


def optimizer_of(original):
    """The recipe's: of pre-training by timm's helper; of fine-tuning by the official rule, in which all but the
    embedding and the blocks is at the last layer; of probing LARS."""
    lr, decay = float(original.given['lr']), 0.05
    trainable = {name: p for name, p in original.model.named_parameters() if p.requires_grad}
    if original.is_probe:
        return Lars(trainable.values(), lr)
    if original.is_autoencoder:
        return torch.optim.AdamW(
            param_groups_weight_decay(original.model, decay), lr, betas=(0.9, 0.95)
        )
    depth, groups = len(original.stacks['blocks']), []
    for name, parts in original.names.items():
        layer = 0 if name.startswith(('cls_token', 'pos_embed', 'patch_embed')) else depth + 1
        if found := re.match(r'blocks\.(\d+)\.', name):
            layer = int(found[1]) + 1
        plain = name in ('cls_token', 'pos_embed') or trainable[parts[0]].ndim == 1
        groups.append(
            {
                'params': [trainable[part] for part in parts],
                'weight_decay': 0.0 if plain else decay,
                'lr_scale': float(original.given['layer_decay']) ** (depth + 1 - layer),
            }
        )
    return torch.optim.AdamW(groups, lr, betas=(0.9, 0.999))


class Lars(torch.optim.Optimizer):
    """As the official linear probe has it: no weight decay, and the trust ratio for matrices alone."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {'lr': lr, 'momentum': 0.9, 'trust': 0.001})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                update = p.grad
                if p.ndim > 1 and p.norm() > 0 and update.norm() > 0:
                    update = update * (group['trust'] * p.norm() / update.norm())
                momentum = self.state[p].setdefault('mu', torch.zeros_like(p))
                momentum.mul_(group['momentum']).add_(update)
                p.sub_(momentum, alpha=group['lr'])
