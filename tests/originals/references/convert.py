"""The producers' own classes load the files of util.convert strictly and compute outputs.

GIVEN names files and folders.
"""

import sys
from pathlib import Path

import mmpretrain_ready  # noqa: F401  before transformers, timm and mmpretrain
import numpy as np

# isort: split
import mmpretrain.models  # noqa: F401  fills the registry
import torch
from mmengine.runner.checkpoint import load_checkpoint
from mmpretrain.registry import MODELS
from timm.models import load_checkpoint as timm_load
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTForImageClassification, ViTMAEForPreTraining, ViTMAEModel

ARCH = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)
SIZES = dict(img_size=32, patch_size=4)


def archive(file):
    sys.path.append(str(Path(__file__).parents[2] / 'data'))
    import make_model_files

    make_model_files.main(file)


def pretrained(kind, folder):
    """from_pretrained, with no tensor missing, left over or of another shape."""
    model, info = kind.from_pretrained(
        folder, output_loading_info=True, attn_implementation='eager'
    )
    assert not any(info.values()), info
    return model.eval()


def hugging_face(given):
    images, noise = torch.tensor(given['images']), torch.tensor(given['noise'])
    out = pretrained(ViTMAEForPreTraining, given['hf_autoencoder'].item())(images, noise=noise)
    yield 'hf_autoencoder', out.logits
    yield 'hf_autoencoder_loss', out.loss
    encoder = pretrained(ViTMAEModel, given['hf_encoder'].item())
    yield 'hf_encoder', encoder(images, noise=noise).last_hidden_state
    yield 'hf_token', pretrained(ViTForImageClassification, given['hf_token'].item())(images).logits


def timm(given):
    for name, pool in (('timm_pooled', 'avg'), ('timm_token', 'token')):
        model = VisionTransformer(
            **SIZES, embed_dim=96, depth=4, num_heads=3, num_classes=5, global_pool=pool
        ).eval()
        timm_load(model, given[name].item(), strict=True)
        yield name, model(torch.tensor(given['images']))
    model = VisionTransformer(
        **SIZES, embed_dim=96, depth=4, num_heads=3, num_classes=0, global_pool='token'
    ).eval()
    timm_load(model, given['timm_autoencoder'].item(), strict=True)
    yield 'timm_autoencoder', model(torch.tensor(given['images']))


def mmpretrain_models():
    def classifier(kind, neck=None, **backbone):
        backbone = dict(type='VisionTransformer', arch=ARCH, **SIZES, **backbone)
        return MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=neck,
                head=dict(type=kind, num_classes=5, in_channels=96),
            )
        )

    neck = dict(type='ClsBatchNormNeck', input_features=96)
    return {
        'mmpretrain_pooled': classifier('LinearClsHead', out_type='avg_featmap', final_norm=False),
        'mmpretrain_token': classifier('VisionTransformerClsHead', out_type='cls_token'),
        'mmpretrain_probe': classifier('VisionTransformerClsHead', neck, out_type='cls_token'),
        'mmpretrain_autoencoder': MODELS.build(
            dict(
                type='MAE',
                backbone=dict(type='MAEViT', arch=ARCH, **SIZES),
                neck=dict(
                    type='MAEPretrainDecoder',
                    num_patches=64,
                    patch_size=4,
                    embed_dim=96,
                    decoder_embed_dim=64,
                    decoder_depth=2,
                    decoder_num_heads=2,
                ),
                head=dict(
                    type='MAEPretrainHead',
                    norm_pix=True,
                    patch_size=4,
                    loss=dict(type='PixelReconstructionLoss', criterion='L2'),
                ),
            )
        ),
    }


def openmmlab(given):
    images, noise = torch.tensor(given['images']), torch.tensor(given['noise'])
    for name, model in mmpretrain_models().items():
        load_checkpoint(model.eval(), given[name].item(), strict=True)
        if 'autoencoder' in name:
            drawn, torch.rand = torch.rand, lambda *size, **_: noise
            latent, _, restore = model.backbone(images)
            torch.rand = drawn
            yield name, model.neck(latent, restore)
        else:
            yield name, model(images)


@torch.no_grad()
def main(given, computed):
    given = dict(np.load(given))
    if 'archive' in given:
        archive(given['archive'].item())
        np.savez(computed)
        return
    out = {
        name: tensor.numpy()
        for part in (hugging_face, timm, openmmlab)
        for name, tensor in part(given)
    }
    for name in [name for name in given if name.startswith('torch_')]:
        contents = torch.load(given[name].item(), weights_only=True)
        out |= {f'{name}:{key}': tensor.numpy() for key, tensor in contents['model'].items()}
        assert (
            contents['args'] == {'model': name, 'rates': [1, 2.5], 'lr': None}
            and contents['rate'] == 0.5
        )
    np.savez(computed, **out)


main(*sys.argv[1:])
