"""Our model with the weights in question, what it makes of a batch, and the optimizer of its recipe."""

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
    """Our model with these weights. An encoder's features are what it gives instead of scores."""
    kind, width = settings['kind'], settings['width']

    def depth_of(stack):
        return sum(
            name.startswith(f'{stack}.') and name.endswith('.norm1.weight') for name in tensors
        )

    shared = dict(
        img_size=settings['side'],
        patch_size=settings['patch'],
        in_chans=settings['channels'],
        embed_dim=width,
        depth=depth_of('blocks'),
        num_heads=settings['heads'],
        norm_layer=layer.LayerNorm,
        mlp_ratio=len(tensors['blocks.0.mlp.fc1.bias']) / width,
    )
    if kind == names.AUTOENCODER:
        model = models_mae.MaskedAutoencoderViT(
            **shared,
            decoder_embed_dim=tensors['mask_token'].shape[-1],
            decoder_depth=depth_of('decoder_blocks'),
            decoder_num_heads=settings['decoder_heads'],
            norm_pix_loss=settings['norm_pix_loss'],
        )
    else:
        model = models_vit.VisionTransformer(
            **shared,
            num_classes=max(settings['classes'], 1),
            global_pool='fc_norm.weight' in tensors,
        )
        if kind == names.PROBE:
            model.probe()
        elif kind == names.ENCODER:
            model.head = paddle.nn.Identity()
    assign_weights(model, tensors, path)
    return model


def objective_of(given: dict) -> Callable:
    """objective(model, i) -> what the model makes of batch i, by name, and the loss."""

    def objective(model, i):
        images, noise, targets = (
            paddle.to_tensor(given[name][i]) for name in ('images', 'noise', 'targets')
        )
        if isinstance(model, models_mae.MaskedAutoencoderViT):
            loss, prediction, mask = model(images, 0.75, noise)
            return {'prediction': prediction, 'mask': mask, 'loss': loss}
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
    return optim.adamw(optim.layer_decay_groups(model, 0.05, settings['layer_decay']), beta2=0.999)
