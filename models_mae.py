"""Masked autoencoder with a ViT encoder (arXiv:2111.06377).

Names, order and shapes of the parameters equal facebookresearch/mae models_mae.py @ efb2a80 (Linear weights are
stored [in, out], as Paddle does). Departures, each with its test in tests/test_models_mae.py: `noise` can be handed
in; images need not be square nor have three channels.
Shapes: N images, C channels, L patches, K kept patches, D width, p patch side.
"""
import math

import paddle
from paddle import nn
from paddle.nn import initializer

from layer import Block, Blocks, LayerNorm, PatchEmbed, choose, image_shape
from util import checkpoint, convert, masking, pos_embed
from util.convert import names
from util.errors import InputError
from util.weights import sizes
from util.weights.sizes import SIZES


class MaskedAutoencoderViT(nn.Layer):
    """Encode the visible patches, decode all of them, compare with the image where it was hidden."""

    def __init__(self, img_size: int | tuple[int, int] = 224, patch_size: int = 16, in_chans: int = 3,
                 embed_dim: int = 1024, depth: int = 24, num_heads: int = 16,
                 decoder_embed_dim: int = 512, decoder_depth: int = 8, decoder_num_heads: int = 16,
                 mlp_ratio: float = 4.0, norm_layer=nn.LayerNorm, norm_pix_loss: bool = False):
        super().__init__()
        patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = self._token(embed_dim)
        self.pos_embed = self._positions(embed_dim, patch_embed.grid)
        self.mask_token = self._token(decoder_embed_dim)
        self.decoder_pos_embed = self._positions(decoder_embed_dim, patch_embed.grid)

        self.patch_embed = patch_embed
        self.blocks = Blocks(Block(embed_dim, num_heads, mlp_ratio, norm_layer=norm_layer) for _ in range(depth))
        self.norm = norm_layer(embed_dim)

        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.decoder_blocks = Blocks(Block(decoder_embed_dim, decoder_num_heads, mlp_ratio, norm_layer=norm_layer)
                                     for _ in range(decoder_depth))
        self.decoder_norm = norm_layer(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size ** 2 * in_chans)

        self.norm_pix_loss = norm_pix_loss
        self.initialize_weights()

    def _token(self, width: int) -> paddle.Tensor:
        return self.create_parameter([1, 1, width], default_initializer=initializer.Normal(std=0.02))

    def _positions(self, width: int, grid: tuple[int, int]) -> paddle.Tensor:
        table = pos_embed.sincos_2d(width, grid)[None]
        parameter = self.create_parameter(table.shape, default_initializer=initializer.Assign(table))
        parameter.stop_gradient = True  # frozen, but saved: upstream's files hold it
        return parameter

    def initialize_weights(self) -> None:
        """Draw every Linear and the patch projection anew: Xavier-uniform weights, zero biases.

        The projection's weight is drawn as the matrix it is, [D, C p p]; its bias keeps PyTorch's default for a
        convolution, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which upstream leaves in place.
        """
        for part in self.sublayers():
            if isinstance(part, nn.Linear):
                initializer.XavierUniform()(part.weight)
                initializer.Constant(0.0)(part.bias)
        proj = self.patch_embed.proj
        fan_out, fan_in = proj.weight.shape[0], math.prod(proj.weight.shape[1:])
        initializer.XavierUniform(fan_in=fan_in, fan_out=fan_out)(proj.weight)
        initializer.Uniform(-fan_in ** -0.5, fan_in ** -0.5)(proj.bias)

    def patchify(self, imgs: paddle.Tensor) -> paddle.Tensor:
        """[N, C, height, width] -> [N, L, p*p*C]: patches in row-major order, within a patch row, column, channel."""
        p, (rows, columns) = self.patch_embed.patch_size, self.patch_embed.grid
        x = imgs.reshape([-1, imgs.shape[1], rows, p, columns, p])
        return x.transpose([0, 2, 4, 3, 5, 1]).reshape([-1, rows * columns, p * p * imgs.shape[1]])

    def unpatchify(self, x: paddle.Tensor) -> paddle.Tensor:
        """The inverse of patchify: [N, L, p*p*C] -> [N, C, height, width]."""
        p, (rows, columns) = self.patch_embed.patch_size, self.patch_embed.grid
        x = x.reshape([-1, rows, columns, p, p, x.shape[2] // p ** 2])
        return x.transpose([0, 5, 1, 3, 2, 4]).reshape([-1, x.shape[5], rows * p, columns * p])

    def random_masking(self, x: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor | None = None) -> tuple:
        """Keep the patches with the smallest noise.

        x [N, L, D]; noise [N, L], drawn here where it is None. Returns the kept patches [N, K, D], the mask [N, L]
        in the image's order (float32, 1 = removed) and ids_restore [N, L], which undoes the shuffle.
        """
        N, L, D = x.shape
        if noise is None:
            noise = paddle.rand([N, L])
        ids_shuffle = paddle.argsort(noise, axis=1, stable=True)
        ids_restore = paddle.argsort(ids_shuffle, axis=1)
        K = masking.kept(L, mask_ratio)
        if K < 1:
            raise InputError(f'mask ratio {mask_ratio} keeps none of {L} patches; take a smaller one')
        ids_keep = ids_shuffle[:, :K].unsqueeze(-1).expand([N, K, D])
        mask = (ids_restore >= K).astype('float32')
        return paddle.take_along_axis(x, ids_keep, axis=1), mask, ids_restore

    def forward_encoder(self, imgs: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor | None = None) -> tuple:
        """Latents [N, 1 + K, D] of the class token and the kept patches; mask and ids_restore as random_masking."""
        x = self.patch_embed(imgs) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio, noise)
        cls_token = self.cls_token + self.pos_embed[:, :1]
        x = paddle.concat([cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype), x], axis=1)
        return self.norm(self.blocks(x)), mask, ids_restore

    def forward_decoder(self, x: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, p*p*C] for every patch, from the latents of the kept ones."""
        x = self.decoder_embed(x)
        N, L = ids_restore.shape
        D = x.shape[2]
        hidden = self.mask_token.expand([N, L + 1 - x.shape[1], D]).astype(x.dtype)
        patches = paddle.concat([x[:, 1:], hidden], axis=1)
        patches = paddle.take_along_axis(patches, ids_restore.unsqueeze(-1).expand([N, L, D]), axis=1)
        x = paddle.concat([x[:, :1], patches], axis=1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]

    def patch_statistics(self, imgs: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Mean and standard deviation [N, L, 1] over all values of each patch (unbiased variance, plus 1e-6)."""
        patches = self.patchify(imgs)
        mean = patches.mean(-1, keepdim=True)
        variance = (patches - mean).square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
        return mean, (variance + 1e-6).sqrt()

    def forward_loss(self, imgs: paddle.Tensor, pred: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """Mean squared error over the removed patches, a scalar; NaN where the mask removes none.

        imgs [N, C, height, width] as the encoder saw them, pred [N, L, p*p*C], mask [N, L].
        """
        with paddle.amp.auto_cast(False):  # squares of pixel differences and sums over a batch need float32
            target = self.patchify(imgs)
            if self.norm_pix_loss:
                mean, std = self.patch_statistics(imgs)
                target = (target - mean) / std
            loss = (pred.astype('float32') - target).square().mean(-1)  # [N, L]
            return (loss * mask).sum() / mask.sum()

    def forward(self, imgs: paddle.Tensor, mask_ratio: float = 0.75, noise: paddle.Tensor | None = None) -> tuple:
        """(loss, prediction [N, L, p*p*C], mask [N, L], 1 = removed); `noise` [N, L] fixes the mask."""
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio, noise)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


def _of_size(name: str, **kwargs) -> MaskedAutoencoderViT:
    size = SIZES[name]
    return MaskedAutoencoderViT(
        **kwargs, patch_size=size.patch, embed_dim=size.width, depth=size.depth, num_heads=size.heads,
        decoder_embed_dim=size.decoder_width, decoder_depth=size.decoder_depth, decoder_num_heads=size.decoder_heads,
        norm_layer=LayerNorm)


def mae_vit_nano_patch4_dec64d2b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('nano_patch4', **{'img_size': 32, **kwargs})


def mae_vit_small_patch16_dec192d4b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('small_patch16', **kwargs)


def mae_vit_base_patch16_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('base_patch16', **kwargs)


def mae_vit_large_patch16_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('large_patch16', **kwargs)


def mae_vit_huge_patch14_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('huge_patch14', **kwargs)


mae_vit_nano_patch4 = mae_vit_nano_patch4_dec64d2b
mae_vit_small_patch16 = mae_vit_small_patch16_dec192d4b
mae_vit_base_patch16 = mae_vit_base_patch16_dec512d8b
mae_vit_large_patch16 = mae_vit_large_patch16_dec512d8b
mae_vit_huge_patch14 = mae_vit_huge_patch14_dec512d8b


def create(name: str, **kwargs) -> MaskedAutoencoderViT:
    """The variant called `name`; InputError with all names where there is none."""
    return choose({key: value for key, value in globals().items() if key.startswith('mae_vit_')}, name)(**kwargs)


def load(path: str, name: str | None = None, norm_pix_loss: bool | None = None) -> tuple[MaskedAutoencoderViT, dict]:
    """The model in a weight file, and the flags it was trained with ({} where the file does not say).

    name and norm_pix_loss are for files without flags; InputError where they are needed and missing, where they
    contradict the file, or where the file holds an encoder only. Channels and (square) image size follow from shapes.
    """
    state = convert.load(path)
    tensors, flags = state['model'], state.get('args', {})
    if names.kind(tensors) != names.AUTOENCODER:
        raise InputError(f'{path} holds {names.kind(tensors)}, which has no decoder and cannot reconstruct. '
                         'Take a whole pre-training checkpoint (of the official files: *_full and mae_visualize_*)')
    inferred = sizes.name_of(tensors) and f'mae_vit_{sizes.name_of(tensors)}'
    known = {'--model': (flags.get('model', inferred), name), '--norm_pix_loss': (flags.get('norm_pix_loss'), norm_pix_loss)}
    for flag, (said, asked) in known.items():
        if said is None and asked is None:
            raise InputError(f'{path} does not say its {flag[2:]}; give {flag} (of the official files, *_full predict '
                             'normalised pixels, mae_visualize_* do not: --no_norm_pix_loss)')
        if None not in (said, asked) and said != asked:
            raise InputError(f'{path} was trained with {flag[2:]} {said}, but {flag[2:]} {asked} was asked for')
    name, norm_pix_loss = (asked if said is None else said for said, asked in known.values())
    channels, size = image_shape(tensors)
    model = create(name, norm_pix_loss=norm_pix_loss, img_size=size, in_chans=channels)
    checkpoint.load_model(model, tensors, path)
    return model, flags
