"""Masked autoencoder with a ViT encoder (arXiv:2111.06377).

Parameter names, order and shapes equal facebookresearch/mae models_mae.py @ efb2a80 (Paddle stores
Linear weights [in, out]).
Departures, each with its test in tests/test_models_mae.py unless another file is named: the noise
of the mask can be given; images need not be square nor have three channels; visible patches can be
replaced by a token, as in UM-MAE (arXiv:2205.10063, tests/test_models_um.py); the encoder can see
mask tokens (table 1c of the paper), and other targets are in models_target.py.
Shapes: N images, C channels, L patches, V visible patches, D width, p patch side, T values of a
patch's target (p*p*C pixels, or fewer).
"""

import math

import paddle
from paddle import nn
from paddle.nn import initializer

from layer import Block, Blocks, LayerNorm, PatchEmbed, init_linears
from models_sizes import SIZES
from models_target import PatchTarget
from util import broadcast, masking, pos_embed, sizes, tokens
from util.errors import InputError


class Reconstruction(PatchTarget):
    """The shared part of all masked autoencoders: masks, the decoder and the loss.

    A model inherits it, calls `configure`, adds an encoder and a decoder, and implements
    forward_encoder and forward_decoder.
    """

    error = staticmethod(paddle.square)  # of a pixel
    num_visible = staticmethod(masking.num_visible)  # (patches, mask ratio) -> V

    def configure(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        norm_pix_loss: bool,
        vis_mask_ratio: float,
        pca_target: int = 0,
    ) -> None:
        """Set the size of images [N, in_chans, *img_size] and of the patches that masks remove.

        patch_size: side in pixels. vis_mask_ratio: see secondary_masking. norm_pix_loss and
        pca_target: see PatchTarget.
        """
        self.img_size = sizes.pair(img_size)
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.grid = tuple(side // patch_size for side in self.img_size)
        self.vis_mask_ratio = vis_mask_ratio
        self.configure_target(norm_pix_loss, pca_target)

    @property
    def num_patches(self) -> int:
        """L, the number of patches of an image."""
        return self.grid[0] * self.grid[1]

    def create_token(self, width: int) -> paddle.Tensor:
        """A new learnt token [1, 1, width], drawn with standard deviation 0.02."""
        normal = initializer.Normal(std=0.02)
        return self.create_parameter([1, 1, width], default_initializer=normal)

    def create_fixed_positions(
        self, width: int, grid: tuple[int, int], cls_token: bool
    ) -> paddle.Tensor:
        """A frozen sine-cosine table [1, (1 +) rows * columns, width], the class token's row first.

        It is a parameter, so that checkpoints hold it as upstream's do.
        """
        table = pos_embed.sincos_2d(width, grid, cls_token)[None]
        assign = initializer.Assign(table)
        parameter = self.create_parameter(table.shape, default_initializer=assign)
        parameter.stop_gradient = True
        return parameter

    def add_decoder(
        self,
        latent_dim: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        norm_layer,
        patches: int = 1,
    ) -> None:
        """Add the layers that predict, from each latent, the pixels of its `patches` patches.

        Mask token and positions are not among them.
        """
        self.decoder_embed = nn.Linear(latent_dim, patches * embed_dim)
        self.decoder_blocks = Blocks(
            Block(embed_dim, num_heads, mlp_ratio, norm_layer=norm_layer) for _ in range(depth)
        )
        self.decoder_norm = norm_layer(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, self.target_width)

    def decode(self, x: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, T] of tokens [N, L, D], to which the positions are already added."""
        x = self.decoder_blocks(x)
        x = self.decoder_norm(x)
        return self.decoder_pred(x)

    def init_patch_projection(self) -> None:
        """Initialize the weight of the patch projection, as a matrix [D, C p p], by Xavier."""
        weight = self.patch_embed.proj.weight  # [D, C, p, p]
        fan_in = math.prod(weight.shape[1:])
        xavier = initializer.XavierUniform(fan_in=fan_in, fan_out=weight.shape[0])
        xavier(weight)

    def random_masking(
        self, N: int, mask_ratio: float, noise: paddle.Tensor | None = None
    ) -> tuple:
        """Keep the patches with the smallest noise [N, L], which is drawn here if it is None.

        Returns ids_keep [N, V], the mask [N, L] in the image's order (float32, 1 = removed) and
        ids_restore [N, L], which undoes the shuffle.
        """
        L = self.num_patches
        V = self.num_visible(L, mask_ratio)
        if V < 1:
            raise InputError(
                f'mask ratio {mask_ratio} keeps none of {L} patches; take a smaller one'
            )

        # Sort the noise of each image: small is keep, large is remove
        if noise is None:
            noise = paddle.rand([N, L])
        ids_shuffle = paddle.argsort(noise, axis=1, stable=True)  # [N, L]
        ids_restore = paddle.argsort(ids_shuffle, axis=1)  # [N, L], a patch's place in the shuffle
        ids_keep = ids_shuffle[:, :V]

        mask = (ids_restore >= V).astype('float32')
        return ids_keep, mask, ids_restore

    def secondary_masking(self, mask: paddle.Tensor, visible: int) -> paddle.Tensor:
        """Visible patches that vis_mask_token replaces (arXiv:2205.10063, sec. 3.3): bool [N, L].

        The mask [N, L] leaves `visible` patches of each image. int(visible * (1 - vis_mask_ratio))
        of them, drawn anew at each call, stay as they are.
        """
        replaced = visible - masking.num_visible(visible, self.vis_mask_ratio)
        noise = paddle.rand(mask.shape) + mask  # [N, L], removed patches sort behind visible ones
        order = paddle.argsort(noise, axis=1)
        rank = paddle.argsort(order, axis=1)  # [N, L]
        return rank < replaced

    def forward_loss(
        self, imgs: paddle.Tensor, pred: paddle.Tensor, mask: paddle.Tensor
    ) -> paddle.Tensor:
        """Mean error over the removed patches, a scalar; NaN if the mask removes none.

        imgs [N, C, height, width] as the encoder saw them, pred [N, L, T], mask [N, L].
        """
        # Squares of pixel differences and sums over a batch need float32
        with paddle.amp.auto_cast(False):
            target = self.target(imgs)  # [N, L, T]
            loss = self.error(pred.astype('float32') - target)  # [N, L, T]
            loss = loss.mean(-1)  # [N, L], mean error of each patch
            return (loss * mask).sum() / mask.sum()

    def forward(
        self, imgs: paddle.Tensor, mask_ratio: float = 0.75, noise: paddle.Tensor | None = None
    ) -> tuple:
        """(loss, prediction [N, L, T], mask [N, L], 1 = removed); `noise` fixes the mask."""
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio, noise)
        pred = self.forward_decoder(latent, ids_restore)
        loss = self.forward_loss(imgs, pred, mask)
        return loss, pred, mask


class MaskedAutoencoderViT(Reconstruction):
    """Encode the visible patches, decode all of them, compare the removed ones with the image."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_layer=nn.LayerNorm,
        norm_pix_loss: bool = False,
        vis_mask_ratio: float = 0.0,
        encoder_mask_tokens: bool = False,
        pca_target: int = 0,
    ):
        super().__init__()
        self.encoder_mask_tokens = encoder_mask_tokens
        self.configure(
            img_size,
            patch_size,
            in_chans,
            norm_pix_loss=norm_pix_loss,
            vis_mask_ratio=vis_mask_ratio,
            pca_target=pca_target,
        )
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)

        # Tokens and fixed positions, in upstream's order
        self.cls_token = self.create_token(embed_dim)
        self.pos_embed = self.create_fixed_positions(embed_dim, self.grid, cls_token=True)
        if encoder_mask_tokens:
            self.encoder_mask_token = self.create_token(embed_dim)
        else:
            self.mask_token = self.create_token(decoder_embed_dim)
        self.decoder_pos_embed = self.create_fixed_positions(
            decoder_embed_dim, self.grid, cls_token=True
        )
        if vis_mask_ratio:
            self.vis_mask_token = self.create_token(embed_dim)

        # Encoder
        self.blocks = Blocks(
            Block(embed_dim, num_heads, mlp_ratio, norm_layer=norm_layer) for _ in range(depth)
        )
        self.norm = norm_layer(embed_dim)

        # Decoder
        self.add_decoder(
            latent_dim=embed_dim,
            embed_dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            mlp_ratio=mlp_ratio,
            norm_layer=norm_layer,
        )
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Initialize every Linear and the patch projection: Xavier-uniform weights, zero biases.

        The bias of the patch projection has PyTorch's default for a convolution,
        U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which upstream leaves in place.
        """
        init_linears(self, initializer.XavierUniform())
        self.init_patch_projection()
        proj = self.patch_embed.proj
        bound = math.prod(proj.weight.shape[1:]) ** -0.5
        initializer.Uniform(-bound, bound)(proj.bias)

    def forward_encoder(
        self, imgs: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor | None = None
    ) -> tuple:
        """Latents [N, 1 + V, D] of the class token and the visible patches; mask, ids_restore.

        The last two are those of random_masking. With encoder_mask_tokens the latents are of all
        patches, [N, 1 + L, D].
        """
        x = self.patch_embed(imgs)
        N = x.shape[0]  # [N, L, D]
        ids_keep, mask, ids_restore = self.random_masking(N, mask_ratio, noise)

        # UM-MAE: replace some of the visible patches by a token
        if self.vis_mask_ratio:
            replaced = self.secondary_masking(mask, ids_keep.shape[1]).unsqueeze(-1)  # [N, L, 1]
            x = paddle.where(replaced, self.vis_mask_token.astype(x.dtype), x)

        # Table 1c: the removed patches stay in the sequence, as a token
        if self.encoder_mask_tokens:
            removed = mask.astype('bool').unsqueeze(-1)  # [N, L, 1]
            x = paddle.where(removed, self.encoder_mask_token.astype(x.dtype), x)

        # Add the positions without the class token's, and keep the visible patches
        x = broadcast.add(x, self.pos_embed[:, 1:])
        if not self.encoder_mask_tokens:
            x = tokens.keep(x, ids_keep)  # [N, V, D]

        # Prepend the class token
        cls_token = self.cls_token + self.pos_embed[:, :1]
        cls_token = cls_token.expand([N, -1, -1]).astype(x.dtype)
        x = paddle.concat([cls_token, x], axis=1)  # [N, 1 + V, D]

        x = self.norm(self.blocks(x))
        return x, mask, ids_restore

    def forward_decoder(self, x: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, T] for every patch, from the encoder's latents [N, 1 + V, D]."""
        x = self.decoder_embed(x)
        if not self.encoder_mask_tokens:
            x = tokens.insert(x, self.mask_token, ids_restore)  # [N, 1 + L, D]

        # Decode with the class token, and leave it out of the prediction
        pred = self.decode(broadcast.add(x, self.decoder_pos_embed))
        return pred[:, 1:]


def _of_size(name: str, **kwargs) -> MaskedAutoencoderViT:
    size = SIZES[name]
    width = kwargs.get('decoder_embed_dim', size.decoder_width)
    defaults = {
        'patch_size': size.patch,
        'decoder_embed_dim': width,
        'decoder_depth': size.decoder_depth,
        'decoder_num_heads': size.heads_of_decoder(width),
    }
    return MaskedAutoencoderViT(
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        norm_layer=LayerNorm,
        **(defaults | kwargs),
    )


def mae_vit_nano_patch4_dec64d2b(**kwargs) -> MaskedAutoencoderViT:
    """The model of tests and the tour: images of 32 x 32, a decoder of 2 blocks."""
    return _of_size('nano_patch4', **({'img_size': 32} | kwargs))


def mae_vit_nano_patch4_dec64d1b(**kwargs) -> MaskedAutoencoderViT:
    """The nano model with a decoder of 1 block."""
    return mae_vit_nano_patch4_dec64d2b(**({'decoder_depth': 1} | kwargs))


def mae_vit_nano_patch4_dec64d4b(**kwargs) -> MaskedAutoencoderViT:
    """The nano model with a decoder of 4 blocks."""
    return mae_vit_nano_patch4_dec64d2b(**({'decoder_depth': 4} | kwargs))


def mae_vit_nano_patch8_dec64d2b(**kwargs) -> MaskedAutoencoderViT:
    """The nano model of detection: images of 64 x 64, patches of 8 x 8."""
    return _of_size('nano_patch8', **({'img_size': 64} | kwargs))


def mae_vit_small_patch16_dec192d4b(**kwargs) -> MaskedAutoencoderViT:
    """ViT-Small with the decoder of the earlier Paddle port: width 192, 4 blocks."""
    return _of_size('small_patch16', **kwargs)


def mae_vit_base_patch16_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    """ViT-Base with the paper's decoder: width 512, 8 blocks."""
    return _of_size('base_patch16', **kwargs)


def mae_vit_base_patch16_dec512d2b(**kwargs) -> MaskedAutoencoderViT:
    """ViT-Base with the shallow decoder of UM-MAE: width 512, 2 blocks."""
    return _of_size('base_patch16', **({'decoder_depth': 2} | kwargs))


def mae_vit_large_patch16_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    """ViT-Large with the paper's decoder: width 512, 8 blocks."""
    return _of_size('large_patch16', **kwargs)


def mae_vit_huge_patch14_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    """ViT-Huge with the paper's decoder: width 512, 8 blocks."""
    return _of_size('huge_patch14', **kwargs)


# The names that facebookresearch/mae recommends, and like names for others
mae_vit_nano_patch4 = mae_vit_nano_patch4_dec64d2b
mae_vit_nano_patch8 = mae_vit_nano_patch8_dec64d2b
mae_vit_small_patch16 = mae_vit_small_patch16_dec192d4b
mae_vit_base_patch16 = mae_vit_base_patch16_dec512d8b
mae_vit_large_patch16 = mae_vit_large_patch16_dec512d8b
mae_vit_huge_patch14 = mae_vit_huge_patch14_dec512d8b
