"""Our model with the given weights, its outputs and loss, and the optimizer of its recipe."""

from collections.abc import Callable

import paddle
from paddle.nn import functional as F

import layer
import models_mae
import models_vit
from util import optim
from util.assign import assign_weights
from util.convert import names


def build(settings: dict, tensors: dict, path: str) -> paddle.nn.Layer:
    """Our model with these weights; that of an encoder gives features instead of scores."""
    kind = settings['kind']
    hidden = len(tensors['blocks.0.mlp.fc1.bias'])
    encoder = {
        'img_size': settings['sides'],
        'patch_size': settings['patch'],
        'in_chans': settings['channels'],
        'embed_dim': settings['width'],
        'depth': _depth_of('blocks', tensors),
        'num_heads': settings['heads'],
        'mlp_ratio': hidden / settings['width'],
        'norm_layer': layer.LayerNorm,
    }
    if kind == names.AUTOENCODER:
        model = models_mae.MaskedAutoencoderViT(
            **encoder,
            decoder_embed_dim=tensors['mask_token'].shape[-1],
            decoder_depth=_depth_of('decoder_blocks', tensors),
            decoder_num_heads=settings['decoder_heads'],
            norm_pix_loss=settings['norm_pix_loss'],
        )
    else:
        model = models_vit.VisionTransformer(
            **encoder,
            num_classes=max(settings['classes'], 1),
            global_pool='fc_norm.weight' in tensors,
        )
        if kind == names.PROBE:
            model.probe()
        elif kind == names.ENCODER:
            model.head = paddle.nn.Identity()
    assign_weights(model, tensors, path)
    return model


def _depth_of(stack: str, tensors: dict) -> int:
    """The number of blocks in a stack."""
    blocks = [name for name in tensors if name.startswith(f'{stack}.')]
    return sum(name.endswith('.norm1.weight') for name in blocks)


def objective_of(given: dict) -> Callable:
    """The function objective(model, i) -> the model's outputs for batch i and the loss, by name."""

    def objective(model, i):
        images = paddle.to_tensor(given['images'][i])  # [N, C, S, S]
        if isinstance(model, models_mae.MaskedAutoencoderViT):
            noise = paddle.to_tensor(given['noise'][i])  # [N, L]
            loss, prediction, mask = model(images, 0.75, noise)
            return {'prediction': prediction, 'mask': mask, 'loss': loss}

        targets = paddle.to_tensor(given['targets'][i])  # [N, K] or [N, D]
        out = model(images)
        if isinstance(model.head, paddle.nn.Identity):
            return {'features': out, 'loss': (out - targets).square().mean()}
        return {'logits': out, 'loss': F.cross_entropy(out, targets, soft_label=True)}

    return objective


def optimizer_of(model: paddle.nn.Layer, settings: dict) -> paddle.optimizer.Optimizer:
    """The optimizer of the recipe that the weights are for."""
    if settings['kind'] == names.PROBE:
        return optim.Lars([p for p in model.parameters() if not p.stop_gradient])
    if settings['kind'] == names.AUTOENCODER:
        return optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    groups = optim.layer_decay_groups(model, 0.05, settings['layer_decay'])
    return optim.adamw(groups, beta2=0.999)
