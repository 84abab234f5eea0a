"""Conversion of UM-MAE's weights.

No package makes such files: names and shapes are written out here as PyTorch's modules have them,
a convolution [out, in, side, side], a Linear [out, in].
"""

import json
import re
import zlib

import numpy as np
import paddle
import pytest
from conftest import KINDS
from test_convert import MATRIX, UM_MAE

import models_sizes
import models_zoo
from util import convert, weights
from util.convert import names
from util.errors import InputError
from util.weights import paddle_file, torch_file

# the nano models, of one channel
WIDTHS, HIDDEN, HEADS, POSMLP = (16, 32, 64, 128), 4, (1, 2, 4, 8), 16
STAGES = {'swin': (0, 0, 1, 2, 2, 3), 'pvt': (0, 1, 2, 2, 3)}  # of each block
FAMILIES = {'swin': names.SWIN, 'pvt': names.PVT}
PRETRAINED = {
    f'{method}_{family}_nano_32': family for method in ('mae', 'simmim') for family in FAMILIES
}


def with_bias(**shapes):
    """Shapes of weights and biases by the name of a layer, with __ for dots."""
    shapes = {name.replace('__', '.'): list(shape) for name, shape in shapes.items()}
    return {
        f'{name}.{part}': shape if part == 'weight' else shape[:1]
        for name, shape in shapes.items()
        for part in ('weight', 'bias')
    }


def block(width):
    return with_bias(
        norm1=[width],
        attn__proj=[width, width],
        norm2=[width],
        mlp__fc1=[HIDDEN * width, width],
        mlp__fc2=[width, HIDDEN * width],
    )


def attention(family, width, heads):
    if family == 'swin':
        return with_bias(
            attn__qkv=[3 * width, width],
            attn__posmlp__0=[POSMLP, 2, 1, 1],
            attn__posmlp__2=[heads, POSMLP, 1, 1],
        )
    return with_bias(
        attn__q=[width, width],
        attn__kv=[2 * width, width],
        attn__sr=[width, width, 1, 1],
        attn__norm=[width],
    )


def encoder(family):
    shapes = with_bias(patch_embed__proj=[16, 1, 1, 1])
    shapes |= (
        with_bias(patch_embed__norm=[16]) if family == 'swin' else {'pos_embed': [1, 32 * 32, 16]}
    )
    before = 0
    for number, stage in enumerate(STAGES[family]):
        parts = block(WIDTHS[stage]) | attention(family, WIDTHS[stage], HEADS[stage])
        if stage != before:
            parts |= with_bias(downsample__proj=[WIDTHS[stage], WIDTHS[before], 2, 2])
            parts |= with_bias(downsample__norm=[WIDTHS[before]]) if family == 'swin' else {}
        shapes |= {f'blocks.{number}.{name}': shape for name, shape in parts.items()}
        before = stage
    return shapes


def autoencoder(model, secondary=False):
    """Shapes of a nano model, 16 pixels a patch."""
    shapes = encoder(PRETRAINED[model]) | with_bias(norm=[128])
    if model.startswith('simmim'):
        return shapes | {'mask_token': [1, 1, 16]} | with_bias(decoder_pred=[4 * 16, 128])
    shapes |= {'vis_mask_token': [1, 1, 16]} if secondary else {}
    shapes |= {'mask_token': [1, 1, 64], 'decoder_pos_embed': [1, 64, 64]}
    shapes |= with_bias(decoder_embed=[4 * 64, 128], decoder_norm=[64], decoder_pred=[16, 64])
    parts = block(64) | with_bias(attn__qkv=[3 * 64, 64])
    return shapes | {
        f'decoder_blocks.{i}.{name}': shape for i in range(2) for name, shape in parts.items()
    }


def shapes_of(kind, family):
    """Tensors of a nano model of that kind in PyTorch, with the statistics of a probe."""
    if kind == names.AUTOENCODER:
        return autoencoder(f'mae_{family}_nano_32')
    if kind == names.ENCODER:
        return encoder(family) | with_bias(norm=[128])
    head = (
        with_bias(head=[3, 128])
        if kind == names.POOLED
        else with_bias(head__1=[3, 128])
        | {'head.0.running_mean': [128], 'head.0.running_var': [128]}
    )
    return encoder(family) | with_bias(fc_norm=[128]) | head


def numbers(shapes):
    return {
        name: np.random.default_rng(zlib.crc32(name.encode()))
        .uniform(0.1, 0.9, shape)
        .astype('float32')
        for name, shape in shapes.items()
    }


def assert_ours(model, theirs):
    """Assert that every tensor is theirs; only those of Linear layers are transposed."""
    renamed = {
        name.replace('running_mean', '_mean').replace('running_var', '_variance'): array
        for name, array in theirs.items()
        if not name.endswith('num_batches_tracked')
    }
    assert model.keys() == renamed.keys()
    for name, array in renamed.items():
        linear = array.ndim == 2 and not re.search(r'norm|embed$', name)
        assert np.array_equal(model[name], array.T if linear else array), name


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(
        np.array_equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype
        for name in theirs
    )


@pytest.fixture
def file(tmp_path):
    """file(tensors) -> a checkpoint like those of UM-MAE."""

    def write(tensors, **flags):
        torch_file.write(
            tmp_path / 'x.pth',
            {
                'model': tensors,
                'epoch': 199,
                'scaler': {'scale': 65536.0},
                'args': flags,
                'optimizer': {'state': {}, 'param_groups': []},
            },
        )
        return tmp_path / 'x.pth'

    return write


# the matrix

WORDS = dict(zip(KINDS.values(), MATRIX[UM_MAE]))


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', [kind for kind, word in WORDS.items() if 'exact' in word])
def test_every_tensor_is_read_and_written_as_it_is(file, tmp_path, kind, family):
    theirs = numbers(shapes_of(kind, family))
    if kind == names.PROBE:
        theirs['head.0.num_batches_tracked'] = np.array(0)
    state, report = convert.read(file(theirs, model='x'))
    assert_ours(state['model'], theirs)
    assert (report.kind, report.format) == (kind, names.TORCH.label)
    assert names.family(state['model']) == FAMILIES[family]
    assert state['args'] == {'model': 'x'} and state['epoch'] == 199
    assert list(report.dropped) == [name for name in theirs if name.endswith('tracked')]
    for name in ('again.pth', 'again.safetensors'):
        convert.write(tmp_path / name, state, 'torch')
        read = weights.read(tmp_path / name)
        assert_equal(
            read.get('model', {key: array for key, array in read.items() if key in theirs}), theirs
        )
    convert.write(tmp_path / 'x.pd', state, 'paddle')
    assert_equal(convert.read(tmp_path / 'x.pd')[0]['model'], state['model'])


@pytest.mark.parametrize('to', ['timm', 'hf', 'mmpretrain', 'mmseg'])
@pytest.mark.parametrize('family', FAMILIES)
def test_other_code_bases_have_no_such_model(file, tmp_path, family, to):
    state, _ = convert.read(file(numbers(shapes_of(names.POOLED, family))))
    with pytest.raises(
        InputError,
        match=f'^--to {to}: {FAMILIES[family]} cannot be written, because it has no such model$',
    ):
        convert.write(tmp_path / 'y.safetensors', state, to)
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']


# into models


@pytest.mark.parametrize(
    'model, secondary',
    [
        *((model, False) for model in PRETRAINED),
        ('mae_swin_nano_32', True),
        ('mae_pvt_nano_32', True),
    ],
)
def test_a_pretrained_file_is_the_model_that_it_says_or_looks_like(file, model, secondary):
    theirs = numbers(autoencoder(model, secondary))
    for flags in ({'model': model, 'norm_pix_loss': True, 'vis_mask_ratio': 0.5 * secondary}, {}):
        ours, said = models_zoo.autoencoder_from(str(file(theirs, **flags)), norm_pix_loss=True)
        assert said == flags and type(ours).__name__.endswith(('Swin', 'PVT'))
        assert_ours({name: tensor.numpy() for name, tensor in ours.state_dict().items()}, theirs)
        if 'vis_mask_token' in theirs:
            assert ours.vis_mask_ratio == flags.get('vis_mask_ratio', 0.25)


@pytest.mark.parametrize('model', PRETRAINED)
def test_a_classifier_begins_from_a_pretrained_file_and_is_read_from_its_own(file, model):
    encoder, theirs = f'{PRETRAINED[model]}_nano_32', numbers(autoencoder(model, secondary=True))
    ours = models_zoo.classifier(encoder, in_chans=1, num_classes=3)
    fresh = models_zoo.start_from(ours, str(file(theirs))).fresh
    assert sorted(fresh) == ['fc_norm.bias', 'fc_norm.weight', 'head.bias', 'head.weight']
    assert_ours(
        {name: tensor.numpy() for name, tensor in ours.state_dict().items() if name not in fresh},
        {
            name: array
            for name, array in theirs.items()
            if not name.startswith(('decoder', 'mask_token', 'vis_mask', 'norm.'))
        },
    )
    pooled = numbers(shapes_of(names.POOLED, PRETRAINED[model]))
    models_zoo.assign_from(ours, str(file(pooled)))
    assert_ours({name: tensor.numpy() for name, tensor in ours.state_dict().items()}, pooled)


# models that do not fit


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, *shape):
    return lambda tensors: tensors.update({name: np.ones(shape, 'float32')})


FLAWS = {
    'merge': (
        'swin',
        drop('blocks.2.downsample.proj.bias'),
        '1 of its tensors are missing: blocks.2.downsample.proj.bias',
    ),
    'merges': (
        'pvt',
        lambda tensors: [
            tensors.pop(f'blocks.1.downsample.proj.{part}') for part in ('weight', 'bias')
        ],
        'blocks.1.norm1.weight has the shape [32] (in, out), which contradicts pos_embed',
    ),
    'coordinates': (
        'swin',
        drop('blocks.4.attn.posmlp.2.bias'),
        'are missing: blocks.4.attn.posmlp.2.bias',
    ),
    'pooling': ('pvt', drop('blocks.3.attn.norm.weight'), 'are missing: blocks.3.attn.norm.weight'),
    'positions': ('pvt', drop('pos_embed'), 'are missing: pos_embed'),
    'width': ('swin', put('blocks.3.norm2.weight', 32), 'blocks.3.norm2.weight has the shape [32]'),
    'heads': (
        'swin',
        put('blocks.4.attn.posmlp.2.weight', 3, 16, 1, 1),
        'posmlp.2.weight has the shape [3, 16, 1, 1]',
    ),
    'stage before': (
        'swin',
        put('blocks.3.downsample.proj.weight', 64, 16, 2, 2),
        'contradicts blocks.2.norm1.weight',
    ),
    'side': (
        'pvt',
        put('blocks.3.attn.sr.weight', 64, 64, 2, 2),
        'blocks.3.attn.sr.weight has the shape [64, 64, 2, 2]',
    ),
    'patches': (
        'pvt',
        put('decoder_pos_embed', 1, 256, 64),
        'decoder_pos_embed has the shape [1, 256, 64]',
    ),
    'expansion': (
        'swin',
        put('decoder_embed.weight', 64, 128),
        'decoder_embed.weight has the shape [128, 64]',
    ),
    'class token': (
        'swin',
        put('cls_token', 1, 1, 16),
        'holds a masked autoencoder, which has no cls_token',
    ),
    'keys': ('pvt', put('blocks.0.attn.kv.weight', 16, 32), 'has the shape'),
    'table': (
        'swin',
        put('blocks.0.attn.relative_position_bias_table', 9, 1),
        'no place in the model: blocks.0.attn.rel',
    ),
}


@pytest.mark.parametrize('family, change, message', FLAWS.values(), ids=FLAWS)
def test_a_tensor_that_does_not_fit_is_named(file, family, change, message):
    theirs = numbers(shapes_of(names.AUTOENCODER, family))
    convert.read(file(theirs))
    change(theirs)
    with pytest.raises(InputError) as error:
        convert.read(file(theirs))
    assert message in str(error.value) and '\n' not in str(error.value)


def test_a_classifier_without_its_normalisation_is_none(file):
    theirs = numbers(shapes_of(names.POOLED, 'swin'))
    del theirs['fc_norm.weight'], theirs['fc_norm.bias']
    with pytest.raises(
        InputError,
        match='a classifier by global pooling, but 2 of its tensors are missing: fc_norm',
    ):
        convert.read(file(theirs))


def test_simmim_has_no_secondary_masking(file):
    with pytest.raises(InputError, match='holds a masked autoencoder, which has no vis_mask_token'):
        convert.read(
            file(numbers(autoencoder('simmim_swin_nano_32') | {'vis_mask_token': [1, 1, 16]}))
        )


# the ViT with secondary masking


@pytest.fixture
def secondary():
    model = models_zoo.autoencoder(
        'mae_vit_nano_patch4', img_size=32, in_chans=1, vis_mask_ratio=0.25
    )
    return {'model': {name: tensor.numpy() for name, tensor in model.state_dict().items()}}


@pytest.mark.parametrize(
    'to, name', [('paddle', 'x.pd'), ('torch', 'x.pth'), ('torch', 'x.safetensors')]
)
def test_the_token_of_secondary_masking_goes_with_the_vit(secondary, tmp_path, to, name):
    assert secondary['model']['vis_mask_token'].any()
    convert.write(tmp_path / name, secondary, to)
    assert_equal(convert.read(tmp_path / name)[0]['model'], secondary['model'])


def test_who_cannot_take_the_token_says_so(secondary, tmp_path):
    for to in ('hf', 'mmpretrain'):
        with pytest.raises(InputError, match=f'--to {to}: .* has no place for vis_mask_token$'):
            convert.write(tmp_path / 'x.safetensors', secondary, to)
    report = convert.write(tmp_path / 'x.safetensors', secondary, 'timm')
    assert report.dropped['vis_mask_token'] == 'timm has the encoder alone'


def test_config_json_counts_the_blocks_of_the_decoder(secondary, tmp_path):
    state = {
        'model': {
            name: array
            for name, array in secondary['model'].items()
            if not name.startswith(('vis_mask', 'decoder_blocks.1.'))
        }
    }
    convert.write(tmp_path / 'x', state, 'hf', models_sizes.size_of(state['model']))
    assert json.loads((tmp_path / 'x/config.json').read_text())['decoder_num_hidden_layers'] == 1


def test_our_own_files_need_no_sign_of_pytorch(tmp_path):
    model = models_zoo.classifier('pvt_nano_32', in_chans=1, num_classes=3)
    paddle.save({'model': model.state_dict()}, str(tmp_path / 'x.pd'))
    state, report = convert.read(tmp_path / 'x.pd')
    assert report.format == names.PADDLE.label
    assert_equal(
        state['model'], {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    )
    paddle_file.write(tmp_path / 'y.pd', convert.renamed(state['model'], 'torch')[0])
    assert convert.read(tmp_path / 'y.pd')[1].format == names.TORCH.label
