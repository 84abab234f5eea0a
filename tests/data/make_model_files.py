"""Make models/files.tar.xz: tiny models by the own classes of every code base of util.convert.

    .venv-parity/bin/python tests/data/make_model_files.py tests/data/models/files.tar.xz

All files hold the same numbers, `value` of a tensor's official name, so a converted file can be
checked without its producer. They are one archive because that stores the numbers once.
tests/originals/test_convert.py makes it again and compares.
"""

import argparse
import re
import sys
import tarfile
import tempfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / 'originals/references'))

# isort: split
import mmseg_ready  # noqa: F401  before torch's kin

# isort: split
import mmpretrain.models  # noqa: F401  fills the registry
import mmseg.models  # noqa: F401  likewise
import torch
from mmengine.logging import HistoryBuffer
from mmpretrain.registry import MODELS
from mmseg.registry import MODELS as SEGMENTORS
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
)

WIDTH, DEPTH, HEADS, PATCH, SIZE, DECODER_WIDTH, CLASSES = 24, 2, 3, 8, 32, 16, 5
HIDDEN = 4 * WIDTH

# facebookresearch/mae's name of a tensor -> the others' names
OPENMMLAB = [
    (r'^patch_embed\.proj', 'backbone.patch_embed.projection'),
    (r'^(cls_token|pos_embed)', r'backbone.\1'),
    (r'^blocks', 'backbone.layers'),
    (r'^norm', 'backbone.ln1'),
    (r'^fc_norm', 'backbone.ln2'),
    (r'^(mask_token|decoder_(blocks|pos|embed|pred))', r'neck.\1'),
    (r'^decoder_norm', 'neck.ln1'),
    (r'\.norm(\d)', r'.ln\1'),
    (r'mlp\.fc1', 'ffn.layers.0.0'),
    (r'mlp\.fc2', 'ffn.layers.1'),
    (r'^head\.0', 'neck.bn'),
    (r'^head\.1', 'head.layers.head'),
]
HUGGING_FACE = [
    (r'^cls_token', 'vit.embeddings.cls_token'),
    (r'^pos_embed', 'vit.embeddings.position_embeddings'),
    (r'^patch_embed\.proj', 'vit.embeddings.patch_embeddings.projection'),
    (r'^norm', 'vit.layernorm'),
    (r'^head', 'classifier'),
    (r'^(decoder_|mask_token)', r'decoder.\1'),
    (r'\.norm1', '.layernorm_before'),
    (r'\.norm2', '.layernorm_after'),
]
OLDER = [
    (r'^blocks', 'vit.encoder.layer'),
    (r'decoder_blocks', 'decoder_layers'),
    (r'attn\.proj', 'attention.output.dense'),
    (r'attn\.(query|key|value)', r'attention.attention.\1'),
    (r'mlp\.fc1', 'intermediate.dense'),
    (r'mlp\.fc2', 'output.dense'),
]
# their names -> official names, for segmentors whose encoder has official names
MMSEGMENTATION = [
    (r'^backbone\.layers\.(\d+)\.attn\.relative_position_bias_table', r'position_bias.\1.table'),
    (r'^backbone\.layers', 'blocks'),
    (r'^backbone\.patch_embed\.projection', 'patch_embed.proj'),
    (r'^backbone\.', ''),
    (r'\.ln(\d)', r'.norm\1'),
    (r'ffn\.layers\.0\.0', 'mlp.fc1'),
    (r'ffn\.layers\.1', 'mlp.fc2'),
]
IN_MEMORY = [
    (r'^blocks', 'vit.layers'),
    (r'decoder_blocks', 'decoder_layers'),
    (r'attn\.proj', 'attention.o_proj'),
    (r'attn\.([qkv])[a-z]+', r'attention.\1_proj'),
]


def value(name, shape):
    """The tensor of this official name, in PyTorch's layout: neither 0 nor 1 anywhere."""
    return (
        np.random.default_rng(zlib.crc32(name.encode())).uniform(0.1, 0.9, shape).astype('float32')
    )


def official(*extra):
    """State dict of an encoder, with the decoder or a classifier's head."""
    block = {
        'norm1': [],
        'attn.qkv': [3, 1],
        'attn.proj': [1, 1],
        'norm2': [],
        'mlp.fc1': [4, 1],
        'mlp.fc2': [1, 4],
    }
    sizes = {
        'cls_token': [1, 1, WIDTH],
        'pos_embed': [1, 17, WIDTH],
        'patch_embed.proj': [WIDTH, 3, PATCH, PATCH],
        **{
            f'blocks.{i}.{part}': [n * WIDTH for n in shape] or [WIDTH]
            for i in range(DEPTH)
            for part, shape in block.items()
        },
    }
    parts = {
        'norm': {'norm': [WIDTH]},
        'fc_norm': {'fc_norm': [WIDTH]},
        'head': {'head': [CLASSES, WIDTH]},
        'probe': {
            'head.0.running_mean': [WIDTH],
            'head.0.running_var': [WIDTH],
            'head.0.num_batches_tracked': [],
            'head.1': [CLASSES, WIDTH],
        },
        'decoder': {
            'mask_token': [1, 1, DECODER_WIDTH],
            'decoder_pos_embed': [1, 17, DECODER_WIDTH],
            'decoder_embed': [DECODER_WIDTH, WIDTH],
            **{
                f'decoder_blocks.0.{part}': [n * DECODER_WIDTH for n in shape] or [DECODER_WIDTH]
                for part, shape in block.items()
            },
            'decoder_norm': [DECODER_WIDTH],
            'decoder_pred': [PATCH**2 * 3, DECODER_WIDTH],
        },
    }
    for part in extra:
        sizes |= parts[part]
    state = OrderedDict()
    for name, shape in sizes.items():
        if 'token' in name or 'pos_embed' in name or 'running' in name:
            state[name] = torch.tensor(value(name, shape))
        elif 'tracked' in name:
            state[name] = torch.tensor(7)
        else:
            state |= {
                f'{name}.weight': torch.tensor(value(f'{name}.weight', shape)),
                f'{name}.bias': torch.tensor(value(f'{name}.bias', shape[:1])),
            }
    return state


def renamed(state, *tables, split=False):
    """Tensors renamed by lists of patterns; with `split`, query, key and value are separate."""
    out = OrderedDict()
    for name, tensor in state.items():
        parts = {name: tensor}
        if split and 'qkv' in name:
            parts = {
                name.replace('qkv', part): third
                for part, third in zip(('query', 'key', 'value'), tensor.chunk(3))
            }
        for own, array in parts.items():
            for pattern, replacement in (pair for table in tables for pair in table):
                own = re.sub(pattern, replacement, own)
            out[own] = array.clone()
    return out


def filled(model, state):
    """The model with exactly these tensors."""
    model.load_state_dict(state, strict=True)
    return model


def training_state(state):
    """A checkpoint like those of the official programs: an optimizer's state, and flags.

    The state has only two parameters, to be small.
    """
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in state.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, betas=(0.9, 0.95))
    parameters['norm.weight'].grad, parameters['norm.bias'].grad = torch.ones(2, WIDTH)
    optimizer.step()
    flags = argparse.Namespace(
        model='mae_vit_tiny', norm_pix_loss=True, lr=None, mask_ratio=0.75, output_dir='./output'
    )
    return {
        'model': state,
        'optimizer': optimizer.state_dict(),
        'epoch': 3,
        'scaler': torch.amp.GradScaler('cpu').state_dict(),
        'args': flags,
    }


def facebook(folder):
    encoder, whole = official('norm'), official('decoder', 'norm')
    torch.save({'model': encoder}, folder / 'official_encoder.pth')
    torch.save(
        training_state(official('decoder', 'norm')),
        folder / 'official_autoencoder.pth',
        _use_new_zipfile_serialization=False,
    )
    torch.save({'model': official('head', 'fc_norm')}, folder / 'official_pooled.pth')
    torch.save({'model': official('norm', 'head')}, folder / 'official_token.pth')
    torch.save({'model': official('norm', 'probe')}, folder / 'official_probe.pth')
    torch.save(
        {'model': OrderedDict((f'module.{name}', tensor) for name, tensor in whole.items())},
        folder / 'official_wrapped.pth',
    )


def timm(folder):
    def model(**kwargs):
        return VisionTransformer(
            SIZE, PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, **kwargs
        )

    torch.save(
        filled(model(num_classes=0, global_pool='token'), official('norm')).state_dict(),
        folder / 'timm_encoder.pth',
    )
    pooled = filled(model(num_classes=CLASSES, global_pool='avg'), official('head', 'fc_norm'))
    save_file(pooled.state_dict(), folder / 'timm_pooled.safetensors')
    token = filled(model(num_classes=CLASSES, global_pool='token'), official('norm', 'head'))
    save_file(
        token.state_dict(),
        folder / 'timm_token.safetensors',
        {'format': 'pt', 'licence': 'made for tests'},
    )


def hugging_face(folder):
    sizes = dict(
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
    )
    config = ViTMAEConfig(
        **sizes,
        decoder_hidden_size=DECODER_WIDTH,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=4 * DECODER_WIDTH,
    )
    whole = official('decoder', 'norm')
    model = filled(
        ViTMAEForPreTraining(config), renamed(whole, HUGGING_FACE, IN_MEMORY, split=True)
    )
    torch.save(model.state_dict(), folder / 'hf_memory.bin')
    model.save_pretrained(folder / 'hf_autoencoder')
    torch.save(renamed(whole, HUGGING_FACE, OLDER, split=True), folder / 'hf_older.bin')
    encoder = ViTMAEModel(config)
    encoder.load_state_dict(
        {
            name.removeprefix('vit.'): tensor
            for name, tensor in model.state_dict().items()
            if name.startswith('vit.')
        },
        strict=True,
    )
    torch.save(encoder.state_dict(), folder / 'hf_encoder_memory.bin')
    encoder.save_pretrained(folder / 'hf_encoder')
    classifier = ViTForImageClassification(ViTConfig(**sizes, num_labels=CLASSES))
    filled(classifier, renamed(official('norm', 'head'), HUGGING_FACE, IN_MEMORY, split=True))
    classifier.save_pretrained(folder / 'hf_token')


def mmpretrain_model(neck=None, head=None, **backbone):
    arch = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, feedforward_channels=HIDDEN)
    kind = 'VisionTransformer' if head else 'MAEViT'
    backbone = dict(type=kind, arch=arch, img_size=SIZE, patch_size=PATCH, **backbone)
    if head:
        return MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=neck,
                head=dict(type=head, num_classes=CLASSES, in_channels=WIDTH),
            )
        )
    neck = dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=PATCH,
        embed_dim=WIDTH,
        decoder_depth=1,
        decoder_embed_dim=DECODER_WIDTH,
        decoder_num_heads=2,
    )
    head = dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=PATCH,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    )
    return MODELS.build(dict(type='MAE', backbone=backbone, neck=neck, head=head))


def openmmlab(folder):
    def save(name, model, state, **more):
        model = filled(model, renamed(state, OPENMMLAB))
        torch.save(
            {
                'meta': {'epoch': 3, 'cfg': 'model = dict()'},
                'state_dict': model.state_dict(),
                **more,
            },
            folder / name,
        )

    hub = {
        'log_scalars': OrderedDict(loss=HistoryBuffer([1.0, 0.5], [1, 1])),
        'runtime_info': {'iter': 2},
    }
    save(
        'mmpretrain_autoencoder.pth',
        mmpretrain_model(),
        official('decoder', 'norm'),
        message_hub=hub,
    )
    pooled = mmpretrain_model(head='LinearClsHead', out_type='avg_featmap', final_norm=False)
    save(
        'mmpretrain_pooled.pth',
        pooled,
        {
            name.replace('head.', 'head.fc.'): tensor
            for name, tensor in official('head', 'fc_norm').items()
        },
    )
    token = mmpretrain_model(head='VisionTransformerClsHead', out_type='cls_token')
    save(
        'mmpretrain_token.pth',
        token,
        {
            name.replace('head.', 'head.layers.head.'): tensor
            for name, tensor in official('norm', 'head').items()
        },
    )
    neck = dict(type='ClsBatchNormNeck', input_features=WIDTH)
    probe = mmpretrain_model(neck, 'VisionTransformerClsHead', out_type='cls_token')
    save('mmpretrain_probe.pth', probe, official('norm', 'probe'))
    # mmsegmentation's tools/model_converters/beit2mmseg.py @ 0ca30ef keeps the last norm's name,
    # and has no container
    names = [pair for pair in OPENMMLAB if pair[0] != '^norm'] + [('^norm', 'backbone.norm')]
    torch.save(renamed(official('norm'), names), folder / 'mae_mmcls.pth')


def mmsegmentation(folder):
    norm = dict(type='BN')
    head = dict(
        num_classes=CLASSES,
        norm_cfg=norm,
        loss_decode=dict(type='CrossEntropyLoss'),
        align_corners=False,
    )
    model = SEGMENTORS.build(
        dict(
            type='EncoderDecoder',
            backbone=dict(
                type='MAE',
                img_size=(SIZE, SIZE),
                patch_size=PATCH,
                embed_dims=WIDTH,
                num_layers=DEPTH,
                num_heads=HEADS,
                init_values=1.0,
                out_indices=[0, 0, 1, 1],
            ),
            neck=dict(
                type='Feature2Pyramid', embed_dim=WIDTH, rescales=[4, 2, 1, 0.5], norm_cfg=norm
            ),
            decode_head=dict(
                type='UPerHead', in_channels=[WIDTH] * 4, in_index=[0, 1, 2, 3], channels=4, **head
            ),
            auxiliary_head=dict(
                type='FCNHead',
                in_channels=WIDTH,
                in_index=2,
                channels=2,
                num_convs=1,
                concat_input=False,
                **head,
            ),
        )
    )
    state = model.state_dict()
    own = renamed(state, MMSEGMENTATION)
    for name, tensor in zip(own, state.values()):
        if tensor.is_floating_point():
            tensor.copy_(torch.tensor(value(name, tensor.shape)))
    torch.save(
        {
            'meta': {'iter': 160000, 'dataset_meta': {'classes': tuple('abcde')}},
            'state_dict': state,
        },
        folder / 'mmseg_upernet.pth',
    )


def main(archive):
    with tempfile.TemporaryDirectory() as folder:
        for make in (facebook, timm, hugging_face, openmmlab, mmsegmentation):
            make(Path(folder))
        with tarfile.open(archive, 'w:xz') as tar:
            for path in sorted(Path(folder).rglob('*')):
                if path.is_file():
                    tar.add(path, path.relative_to(folder))


if __name__ == '__main__':
    main(sys.argv[1])
