"""The optimizer of the recipe that the weights are for."""

import re

import torch
from timm.optim import param_groups_weight_decay

DECAY = 0.05


def optimizer_of(original):
    """The recipe's optimizer.

    For pre-training its groups are those of timm's helper. For fine-tuning the official rule: all
    but the embedding and the blocks is at the last layer. For probing LARS.
    """
    lr = float(original.given['lr'])
    if original.is_probe:
        trainable = [p for p in original.model.parameters() if p.requires_grad]
        return Lars(trainable, lr)
    if original.is_autoencoder:
        groups = param_groups_weight_decay(original.model, DECAY)
        return torch.optim.AdamW(groups, lr, betas=(0.9, 0.95))
    return torch.optim.AdamW(layer_decay_groups(original), lr, betas=(0.9, 0.999))


def layer_decay_groups(original):
    """A group for each official name, with the scale of its layer's rate."""
    trainable = {name: p for name, p in original.model.named_parameters() if p.requires_grad}
    layer_decay = float(original.given['layer_decay'])
    depth = len(original.stacks['blocks'])
    groups = []
    for name, parts in original.names.items():
        parameters = [trainable[part] for part in parts]
        plain = name in ('cls_token', 'pos_embed') or parameters[0].ndim == 1
        groups.append(
            {
                'params': parameters,
                'weight_decay': 0.0 if plain else DECAY,
                'lr_scale': layer_decay ** (depth + 1 - layer_of(name, depth)),
            }
        )
    return groups


def layer_of(name, depth):
    """The layer of a parameter: 0 for the embedding, depth + 1 for what is behind the blocks."""
    if name.startswith(('cls_token', 'pos_embed', 'patch_embed')):
        return 0
    block = re.match(r'blocks\.(\d+)\.', name)
    return int(block[1]) + 1 if block else depth + 1


class Lars(torch.optim.Optimizer):
    """LARS as in the official linear probe: no weight decay, the trust ratio for matrices alone."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {'lr': lr, 'momentum': 0.9, 'trust': 0.001})

    @torch.no_grad()
    def step(self):
        """Update all parameters by their gradients."""
        for group in self.param_groups:
            for p in group['params']:
                update = p.grad
                if p.ndim > 1 and p.norm() > 0 and update.norm() > 0:
                    update = update * (group['trust'] * p.norm() / update.norm())
                momentum = self.state[p].setdefault('mu', torch.zeros_like(p))
                momentum.mul_(group['momentum']).add_(update)
                p.sub_(momentum, alpha=group['lr'])
