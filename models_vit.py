"""Vision transformer for classification: fine-tuning and linear probing of a masked autoencoder's encoder.

Names, order and shapes of the parameters equal facebookresearch/mae models_vit.py @ efb2a80 (Linear weights are stored
[in, out]). Departures, each with its test in tests/test_models_vit.py: the probe's running variance is the unbiased one
without Paddle's BatchNorm; outputs of all blocks on request.
Shapes: N images, C channels, L patches, D width, K classes.
"""
import math

import numpy as np
import paddle
from paddle import nn
from paddle.nn import initializer

from layer import Block, Blocks, LayerNorm, PatchEmbed, choose
from util import checkpoint, convert, pos_embed
from util.convert import names
from util.errors import InputError
from util.weights.sizes import SIZES


class Encoder(nn.Layer):
    """Patches, class token, learnt positions and blocks: all but what makes an output of the tokens.

    Whoever adds layers calls initialize_weights at the end.
    """

    def __init__(self, img_size: int | tuple[int, int] = 224, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768,
                 depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0, qkv_bias: bool = True,
                 drop_path_rate: float = 0.0, norm_layer=nn.LayerNorm, init_values: float | None = None):
        super().__init__()
        patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        normal = initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0)  # cut at +-2, not at two deviations: as upstream
        self.cls_token = self.create_parameter([1, 1, embed_dim], default_initializer=normal)
        self.pos_embed = self.create_parameter([1, patch_embed.num_patches + 1, embed_dim], default_initializer=normal)
        self.patch_embed = patch_embed
        rates = np.linspace(0, drop_path_rate, depth)
        self.blocks = Blocks(Block(embed_dim, num_heads, mlp_ratio, qkv_bias, norm_layer, float(rate), init_values)
                             for rate in rates)

    def initialize_weights(self) -> None:
        """Linear weights nearly normal with deviation .02, their biases 0; the patch projection as PyTorch's default for a
        convolution: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weight and bias."""
        for part in self.sublayers():
            if isinstance(part, nn.Linear):
                initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0)(part.weight)
                if part.bias is not None:
                    initializer.Constant(0.0)(part.bias)
        proj = self.patch_embed.proj
        bound = math.prod(proj.weight.shape[1:]) ** -0.5
        for parameter in (proj.weight, proj.bias):
            initializer.Uniform(-bound, bound)(parameter)

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """Tokens [N, 1 + L, D] as they enter the first block."""
        x = self.patch_embed(x)
        cls_token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
        return paddle.concat([cls_token, x], axis=1) + self.pos_embed

    def block_features(self, x: paddle.Tensor, biases: list[paddle.Tensor] | None = None) -> list[paddle.Tensor]:
        """Tokens [N, 1 + L, D] as they leave each block; `biases` [H, 1 + L, 1 + L], one a block, for its attention."""
        return self.blocks.outputs(self.embed(x), biases)


class VisionTransformer(Encoder):
    """Class scores [N, K] from images [N, C, height, width].

    With global_pool the mean of the patch tokens as they leave the last block (the class token is left out) goes through
    `fc_norm` to the head, and there is no `norm`; without, the class token goes through `norm`.
    """

    def __init__(self, img_size: int | tuple[int, int] = 224, patch_size: int = 16, in_chans: int = 3,
                 num_classes: int = 1000, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
                 mlp_ratio: float = 4.0, qkv_bias: bool = True, drop_path_rate: float = 0.0, norm_layer=nn.LayerNorm,
                 global_pool: bool = False):
        super().__init__(img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, qkv_bias, drop_path_rate,
                         norm_layer)
        self.global_pool, self.num_classes = global_pool, num_classes
        if not global_pool:
            self.norm = norm_layer(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        if global_pool:
            self.fc_norm = norm_layer(embed_dim)
        self.initialize_weights()

    def reset_head(self, std: float) -> None:
        """Draw the head's weight anew with this deviation, its bias 0: 2e-5 to fine-tune, .01 to probe."""
        initializer.TruncatedNormal(std=std, a=-2.0, b=2.0)(self.head.weight)
        initializer.Constant(0.0)(self.head.bias)

    def probe(self) -> None:
        """Leave only the head to be trained, behind a normalisation of the features without parameters."""
        for parameter in self.parameters():
            parameter.stop_gradient = True
        for parameter in self.head.parameters():
            parameter.stop_gradient = False
        self.head = nn.Sequential(FeatureNorm(self.head.weight.shape[0]), self.head)

    def freeze_blocks(self, count: int) -> None:
        """Keep the embedding and the first `count` blocks as they are (partial fine-tuning, arXiv:2111.06377 fig. 9)."""
        if not 0 <= count <= len(self.blocks):
            raise InputError(f'--freeze_blocks {count}: the model has {len(self.blocks)} blocks')
        if count:
            for part in (self.patch_embed, *self.blocks[:count]):
                for parameter in part.parameters():
                    parameter.stop_gradient = True
            self.cls_token.stop_gradient = self.pos_embed.stop_gradient = True

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features [N, D] that the head sees."""
        x = self.blocks(self.embed(x))
        return self.fc_norm(x[:, 1:].mean(1)) if self.global_pool else self.norm(x)[:, 0]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.forward_features(x))


class FeatureNorm(nn.Layer):
    """BatchNorm without affine parameters over [N, D], epsilon 1e-6, momentum .1 of the new value.

    Paddle's keeps affine parameters even where they are switched off, and the biased variance; this keeps PyTorch's
    unbiased one, which evaluation uses.
    """

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer('_mean', paddle.zeros([width]))
        self.register_buffer('_variance', paddle.ones([width]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x.astype('float32')
        mean, variance = self._mean, self._variance
        if self.training:
            if x.shape[0] < 2:
                raise InputError('normalising features needs at least 2 images a batch and process; raise --batch_size')
            mean = x.mean(0)
            variance = (x - mean).square().mean(0)
            with paddle.no_grad():
                unbiased = variance * (x.shape[0] / (x.shape[0] - 1))
                self._mean.set_value(0.9 * self._mean + 0.1 * mean)
                self._variance.set_value(0.9 * self._variance + 0.1 * unbiased)
        return (x - mean) * (variance + 1e-6).rsqrt()


def _of_size(name: str, **kwargs) -> VisionTransformer:
    size = SIZES[name]
    return VisionTransformer(**kwargs, patch_size=size.patch, embed_dim=size.width, depth=size.depth, num_heads=size.heads,
                             norm_layer=LayerNorm)


def vit_nano_patch4(**kwargs) -> VisionTransformer:
    return _of_size('nano_patch4', **{'img_size': 32, **kwargs})


def vit_small_patch16(**kwargs) -> VisionTransformer:
    return _of_size('small_patch16', **kwargs)


def vit_base_patch16(**kwargs) -> VisionTransformer:
    return _of_size('base_patch16', **kwargs)


def vit_large_patch16(**kwargs) -> VisionTransformer:
    return _of_size('large_patch16', **kwargs)


def vit_huge_patch14(**kwargs) -> VisionTransformer:
    return _of_size('huge_patch14', **kwargs)


def create(name: str, **kwargs) -> VisionTransformer:
    """The variant called `name`; InputError with all names where there is none."""
    return choose({key: value for key, value in globals().items() if key.startswith('vit_')}, name)(**kwargs)


def load_pretrained(model: VisionTransformer, path: str) -> list[str]:
    """Begin from a pre-trained encoder: every parameter but the head's, and fc_norm's, must be in the file.

    The position table is interpolated where the grid differs; a decoder and the other pooling's norm are left out.
    Returns the names of the parameters that keep their fresh values; InputError lists what is missing besides.
    """
    tensors = convert.load(path)['model']
    if names.kind(tensors) == names.PROBE:
        raise InputError(f'{path} holds a linear probe; fine-tune from the weights that it was trained on')
    if 'head.weight' in tensors and ('fc_norm.weight' in tensors) != model.global_pool:
        raise InputError(f'{path} holds {names.kind(tensors)}; add '
                         + ('--cls_token' if model.global_pool else '--global_pool'))
    own = model.state_dict()
    for name in ('head.weight', 'head.bias'):
        if name in tensors and list(tensors[name].shape) != list(own[name].shape):
            del tensors[name]  # of another number of classes, as upstream
    if 'pos_embed' in tensors:
        tensors['pos_embed'] = pos_embed.interpolate(tensors['pos_embed'], model.patch_embed.grid)
    fresh = [name for name in own if name not in tensors]
    allowed = {'head.weight', 'head.bias', 'fc_norm.weight', 'fc_norm.bias'}
    if not set(fresh) <= allowed:
        raise InputError(f'{path} does not fit the model; missing there: {", ".join(sorted(set(fresh) - allowed))}')
    checkpoint.load_model(model, {name: tensors.get(name, tensor) for name, tensor in own.items()}, path)
    return fresh


def set_weights(model: VisionTransformer, tensors: dict, path: str) -> None:
    """Set all weights of a classifier; InputError where the tensors are of another kind of model, or another shape."""
    found, wanted = names.kind(tensors), names.kind(model.state_dict())
    if found != wanted:
        raise InputError(f'{path} holds {found}; {wanted} is needed here')
    checkpoint.load_model(model, tensors, path)


def load(model: VisionTransformer, path: str) -> dict:
    """Set all weights from a classifier's file, as set_weights; what else the file says (flags, class names ...)."""
    if not path:
        raise InputError('--eval needs --resume FILE, the weights to evaluate')
    state = convert.load(path)
    set_weights(model, state['model'], path)
    return {key: value for key, value in state.items() if key not in ('model', 'optimizer')}
