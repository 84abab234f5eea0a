"""Conversion of detectors: UM-MAE's GFL (mmdetection) and ViTDet's Mask R-CNN (detectron2).

No package here makes such files: names and shapes are written out as the modules of implus/UM-MAE
DET/, mmdetection 2.20 and 3.3 (projects/ViTDet) and detectron2 (projects/ViTDet) have them.
"""

import functools
import os
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import KINDS
from test_convert import DETECTORS, MATRIX, NO
from test_convert_pyramids import FAMILIES, WIDTHS, assert_equal, encoder, numbers, with_bias

import main_export
import main_parity
import models_zoo
from det import weights as det_weights
from det.backbone import MAEViT
from det.gfl import MAEGFL, MAEGFLHead
from det.mask_rcnn import MAEMaskRCNN
from det.neck import MAEFPN
from det.neck_vit import SimpleFeaturePyramid, TapsFPN
from det.pyramid import MAEPVT, MAESwin
from det.roi import MAERoIHead
from det.rpn import MAERPNHead
from util import convert, weights
from util.convert import __main__ as program
from util.convert import detectors, names
from util.errors import InputError
from util.weights import torch_file

TARGETS = {
    'official (PyTorch)': 'torch',
    'timm': 'timm',
    'Hugging Face': 'hf',
    'mmpretrain': 'mmpretrain',
    'mmsegmentation': 'mmseg',
    'mmdetection': 'mmdet',
    'detectron2': 'detectron2',
    'earlier Paddle ports': 'paddle',
}
SUFFIXES = {'paddle': '.pd', 'detectron2': '.pkl', 'hf': '.safetensors'}
CLASSES, CHANNELS, MAPS = 3, 32, 24  # of the models here; MAPS of GFL's backbone


# GFL, as mmdetection names it


def conv(name, *shape, norm='', bias=None):
    """A convolution of mmcv, with its normalisation."""
    if not norm:
        return with_bias(**{name: shape})
    shapes = {f'{name}.conv.weight': list(shape)}
    shapes |= {f'{name}.{norm}.{part}': [shape[0]] for part in ('weight', 'bias')}
    if norm == 'bn':
        shapes |= {f'{name}.bn.running_{part}': [shape[0]] for part in ('mean', 'var')}
    return shapes


def gfl_shapes(family, norm):
    shapes = {f'backbone.{name}': shape for name, shape in encoder(family).items()}
    for stage, width in enumerate(WIDTHS, 1):
        shapes |= with_bias(**{f'backbone.up{stage}.0': [width]})
        shapes |= with_bias(**{f'backbone.up{stage}.1': [MAPS, width]})
    for level in range(3):
        shapes |= conv(f'neck.lateral_convs.{level}', CHANNELS, MAPS, 1, 1, norm=norm)
    for level in range(5):
        shapes |= conv(f'neck.fpn_convs.{level}', CHANNELS, CHANNELS, 3, 3, norm=norm)
        shapes[f'bbox_head.scales.{level}.scale'] = []
    for tower in ('cls_convs', 'reg_convs'):
        for i in range(2):
            shapes |= conv(f'bbox_head.{tower}.{i}', CHANNELS, CHANNELS, 3, 3, norm='gn')
    shapes |= conv('bbox_head.gfl_cls', CLASSES, CHANNELS, 3, 3)
    return shapes | conv('bbox_head.gfl_reg', 4 * 17, CHANNELS, 3, 3)


def gfl_file(family, norm='bn'):
    """Tensors of a file of mmdetection."""
    tensors = numbers(gfl_shapes(family, norm))
    tensors['bbox_head.integral.project'] = np.linspace(0, 16, 17, dtype='float32')
    for name in list(tensors):
        if name.endswith('running_mean'):
            tensors[name.replace('running_mean', 'num_batches_tracked')] = np.array(0)
    return tensors


def gfl(family, norm='sync_bn'):
    """Our model of these shapes."""
    if family == 'swin':
        backbone = MAESwin(
            patch_size=1,
            in_channels=1,
            embed_dim=16,
            depths=(2, 1, 2, 1),
            num_heads=(1, 2, 4, 8),
            window=4,
            posmlp_dim=16,
            fpn_out_dim=MAPS,
        )
    else:
        backbone = MAEPVT(
            pretrain_size=32,
            patch_size=1,
            in_channels=1,
            embed_dims=WIDTHS,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 8),
            mlp_ratios=(4, 4, 4, 4),
            fpn_out_dim=MAPS,
        )
    neck = MAEFPN(in_channels=[MAPS] * 4, out_channels=CHANNELS, norm_type=norm)
    head = MAEGFLHead(
        num_classes=CLASSES, in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=2
    )
    return MAEGFL(backbone, neck, head)


# Mask R-CNN: pairs of our stem and a shape as PyTorch has it, in the order of theirs

WIDTH, DEPTH, HEADS, PATCH = 24, 3, 3, 16
OUT, HIDDEN = 8, 12  # channels of the pyramid, width of the box head


def vit_pairs():
    """(name, shape) in the backbone, here and in detectron2."""
    pairs = {'pos_embed': [1, 9 + 1, WIDTH]} | with_bias(patch_embed__proj=[WIDTH, 3, PATCH, PATCH])
    for i in range(DEPTH):
        rows = 2 * (4 if i == 2 else 2) - 1  # a global block, two with windows of 2 x 2
        block = with_bias(
            norm1=[WIDTH],
            attn__qkv=[3 * WIDTH, WIDTH],
            attn__proj=[WIDTH, WIDTH],
            norm2=[WIDTH],
            mlp__fc1=[4 * WIDTH, WIDTH],
            mlp__fc2=[WIDTH, 4 * WIDTH],
        )
        block |= {f'attn.rel_pos_{axis}': [rows, WIDTH // HEADS] for axis in 'hw'}
        pairs |= {f'blocks.{i}.{name}': shape for name, shape in block.items()}
    return pairs


def twice(width, out):
    """A transposed convolution in a sequence: [in, out, 2, 2] and its biases."""
    return lambda name: {f'{name}.weight': [width, out, 2, 2], f'{name}.bias': [out]}


def norm(width):
    return lambda name: with_bias(**{name: [width]})


def normed(width, side, norm_name='norm', nested=''):
    """A convolution with a normalisation inside, as detectron2's Conv2d; nested: as mmcv's."""
    return lambda name: {
        f'{name}{nested}.weight': [OUT, width, side, side],
        f'{name}.{norm_name}.weight': [OUT],
        f'{name}.{norm_name}.bias': [OUT],
    }


def nothing(name):
    """A layer without weights."""
    return {}


HALF, QUARTER = WIDTH // 2, WIDTH // 4
# detectron2's sequences (modeling/backbone/vit.py), with the part of ours at each place
STAGES = {
    'simfp_2': [
        (twice(WIDTH, HALF), 'neck.fpn1.0'),
        (norm(HALF), 'neck.fpn1.1'),
        (nothing, ''),
        (twice(HALF, QUARTER), 'neck.fpn1.3'),
        (normed(QUARTER, 1), 'neck.lateral_convs.0'),
        (normed(OUT, 3), 'neck.fpn_convs.0'),
    ],
    'simfp_3': [
        (twice(WIDTH, HALF), 'neck.fpn2.0'),
        (normed(HALF, 1), 'neck.lateral_convs.1'),
        (normed(OUT, 3), 'neck.fpn_convs.1'),
    ],
    'simfp_4': [
        (normed(WIDTH, 1), 'neck.lateral_convs.2'),
        (normed(OUT, 3), 'neck.fpn_convs.2'),
    ],
    'simfp_5': [
        (nothing, ''),
        (normed(WIDTH, 1), 'neck.lateral_convs.3'),
        (normed(OUT, 3), 'neck.fpn_convs.3'),
    ],
}


def detectron2_names():
    """{name in detectron2: (our name, shape)} of ViTDet's Mask R-CNN."""
    found = {}

    def add(theirs, ours, shapes):
        for name, shape in shapes.items():
            mine = name.replace(theirs, ours, 1)
            if '.norm.' in name[len(theirs) :]:
                mine = mine.replace('.norm.', '.ln.')
            elif f'{theirs}.norm.weight' in shapes:
                mine = mine.replace('.weight', '.conv.weight')
            found[name] = mine, shape

    for name, shape in vit_pairs().items():
        found[f'backbone.net.{name}'] = f'backbone.{name}', shape
    for stage, layers in STAGES.items():
        for number, (layer, ours) in enumerate(layers):
            name = f'backbone.{stage}.{number}'
            add(name, ours, layer(name))
    rpn, roi = 'proposal_generator.rpn_head', 'roi_heads'
    for i in range(2):
        name = f'{rpn}.conv.conv{i}'
        add(name, f'rpn_head.rpn_conv.{i}.conv', with_bias(**{name: [OUT, OUT, 3, 3]}))
    for i in range(4):
        name, mask = f'{roi}.box_head.conv{i + 1}', f'{roi}.mask_head.mask_fcn{i + 1}'
        add(name, f'roi_head.bbox_head.shared_convs.{i}', normed(OUT, 3)(name))
        add(mask, f'roi_head.mask_head.convs.{i}', normed(OUT, 3)(mask))
    for theirs, ours, shape in (
        (f'{rpn}.objectness_logits', 'rpn_head.rpn_cls', [3, OUT, 1, 1]),
        (f'{rpn}.anchor_deltas', 'rpn_head.rpn_reg', [12, OUT, 1, 1]),
        (f'{roi}.box_head.fc1', 'roi_head.bbox_head.shared_fcs.0', [HIDDEN, 49 * OUT]),
        (f'{roi}.box_predictor.cls_score', 'roi_head.bbox_head.fc_cls', [CLASSES + 1, HIDDEN]),
        (f'{roi}.box_predictor.bbox_pred', 'roi_head.bbox_head.fc_reg', [4 * CLASSES, HIDDEN]),
        (f'{roi}.mask_head.deconv', 'roi_head.mask_head.upsample', [OUT, OUT, 2, 2]),
        (f'{roi}.mask_head.predictor', 'roi_head.mask_head.conv_logits', [CLASSES, OUT, 1, 1]),
    ):
        add(theirs, ours, with_bias(**{theirs: shape}))
    return found


def vitdet_file(code_base):
    """Tensors of a file of ViTDet, by detectron2 or by mmdetection."""
    shapes = {name: shape for name, (_, shape) in detectron2_names().items()}
    if code_base == 'mmdet':
        shapes = {
            ours.replace('.ln.', '.norm_layer.'): shape
            for ours, shape in detectron2_names().values()
        }
    return numbers(shapes)


def ours_of(theirs, code_base):
    """Tensors of a file under our names and in our layout, by hand."""
    known = {name: ours for name, (ours, _) in detectron2_names().items()}
    ours = {}
    for name, array in theirs.items():
        if name.endswith(('num_batches_tracked', 'integral.project')):
            continue
        if code_base == 'detectron2':
            name = known[name]
        name = name.replace('running_mean', '_mean').replace('running_var', '_variance')
        name = name.replace('.norm_layer.', '.ln.')
        if name == 'backbone.pos_embed' and array.shape[1] == 10:
            array = array[:, 1:]  # without the place of the class token
        linear = array.ndim == 2 and name.endswith('.weight')
        ours[name] = array.T if linear else array
    return ours


def vit(patch=PATCH, **options):
    return MAEViT(
        img_size=4 * patch,
        pretrain_img_size=3 * patch,
        patch_size=patch,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        window_size=2,
        global_attn_indexes=(2,),
        **{'out_indices': (2,)} | options,
    )


def mask_rcnn(backbone=None, neck=None, num_convs=2, **options):
    """Our model of these shapes."""
    return MAEMaskRCNN(
        backbone or vit(),
        neck or SimpleFeaturePyramid([WIDTH], out_channel=OUT),
        MAERPNHead(in_channels=OUT, num_convs=num_convs),
        MAERoIHead(in_channels=OUT, num_classes=CLASSES, box_width=HIDDEN, **options),
    )


def state_of(model):
    """The numbers of a model, none of them 0 or 1."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return numbers(shapes)


@functools.cache
def state_of_kind(kind):
    return state_of(mask_rcnn() if kind == names.MASK_RCNN else gfl('swin'))


FILES = {
    **{
        f'gfl {family} {norm}': ('mmdet', names.GFL, lambda f=family, n=norm: gfl_file(f, n))
        for family in FAMILIES
        for norm in ('bn', 'gn')
    },
    'vitdet mmdet': ('mmdet', names.MASK_RCNN, lambda: vitdet_file('mmdet')),
    'vitdet detectron2': ('detectron2', names.MASK_RCNN, lambda: vitdet_file('detectron2')),
}
MODELS = {
    **{f'gfl {family} bn': lambda f=family: gfl(f) for family in FAMILIES},
    **{f'gfl {family} gn': lambda f=family: gfl(f, 'gn') for family in FAMILIES},
    'vitdet mmdet': mask_rcnn,
    'vitdet detectron2': mask_rcnn,
}


@pytest.fixture
def file(tmp_path):
    """file(tensors, code base, suffix) -> a file as that code base writes it."""

    def write(tensors, code_base, suffix='.pth'):
        path = tmp_path / f'theirs{suffix}'
        if suffix == '.pkl':
            with open(path, 'wb') as stream:
                pickle.dump({'model': tensors, '__author__': 'third-party'}, stream)
        elif code_base == 'detectron2':
            torch_file.write(path, {'model': tensors, 'iteration': 7, 'optimizer': {'state': {}}})
        else:
            torch_file.write(path, {'state_dict': tensors, 'meta': {'epoch': 25}})
        return path

    return write


# there and back


@pytest.mark.parametrize('name', FILES)
def test_a_file_comes_over_and_goes_back_bit_for_bit(file, tmp_path, name):
    code_base, kind, make = FILES[name]
    theirs = make()
    state, report = convert.read(file(theirs, code_base))
    ours = ours_of(theirs, code_base)
    assert_equal(state['model'], ours)
    assert (report.kind, report.taken) == (kind, len(ours))
    assert set(report.dropped) == {
        name for name in theirs if name.endswith(('tracked', 'integral.project'))
    }

    convert.write(tmp_path / 'x.pd', state, 'paddle')
    again, in_paddle = convert.read(tmp_path / 'x.pd')
    assert_equal(again['model'], ours)
    assert (in_paddle.format, in_paddle.kind, in_paddle.dropped) == ('Paddle', kind, {})

    back = convert.write(tmp_path / 'back.pth', again, code_base)
    read = weights.read(tmp_path / 'back.pth')
    assert_equal(read['model' if code_base == 'detectron2' else 'state_dict'], theirs)
    assert set(back.made) == set(report.dropped)
    kept = {'iteration': 7} if code_base == 'detectron2' else {'meta': {'epoch': 25}}
    assert kept.items() <= read.items() and 'class_position' not in read


@pytest.mark.parametrize('name', FILES)
def test_every_tensor_goes_into_our_model(file, name):
    code_base, _, make = FILES[name]
    model = MODELS[name]()
    theirs = make()
    det_weights.assign_from(model, str(file(theirs, code_base)))
    found = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    assert_equal(found, ours_of(theirs, code_base))


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_detectron2_is_read_and_written(tmp_path, protocol):
    theirs = vitdet_file('detectron2')
    with open(tmp_path / 'x.pkl', 'wb') as stream:
        contents = {'model': theirs, '__author__': 'someone', 'matching_heuristics': True}
        pickle.dump(contents, stream, protocol)
    state, report = convert.read(tmp_path / 'x.pkl')
    assert report.format == "detectron2, ViTDet's Mask R-CNN"
    assert_equal(state['model'], ours_of(theirs, 'detectron2'))
    convert.write(tmp_path / 'y.pkl', state, 'detectron2')
    with open(tmp_path / 'y.pkl', 'rb') as stream:
        written = pickle.load(stream, encoding='latin1')  # as detectron2's checkpointer does
    assert written['__author__'] == 'someone' and written['matching_heuristics'] is True
    assert_equal(written['model'], theirs)


def test_a_model_trained_here_goes_to_detectron2_with_an_author_and_a_place_of_zeros(tmp_path):
    ours = state_of_kind(names.MASK_RCNN)
    report = convert.write(tmp_path / 'x.pkl', {'model': ours, 'epoch': 4}, 'detectron2')
    assert list(report.made) == ['backbone.net.pos_embed']
    assert 'made backbone.net.pos_embed: the position of a class token' in str(report)
    with open(tmp_path / 'x.pkl', 'rb') as stream:
        written = pickle.load(stream)
    assert written['__author__'] == 'MAE for PaddlePaddle' and written['epoch'] == 4
    table = written['model']['backbone.net.pos_embed']
    assert not table[:, 0].any() and np.array_equal(table[:, 1:], ours['backbone.pos_embed'])
    assert_equal(convert.read(tmp_path / 'x.pkl')[0]['model'], ours)


def test_a_table_without_the_place_of_a_class_token_stays_without(file, tmp_path):
    theirs = vitdet_file('detectron2')
    theirs['backbone.net.pos_embed'] = theirs['backbone.net.pos_embed'][:, 1:]
    state, _ = convert.read(file(theirs, 'detectron2'))
    assert state['class_position'] == [] and state['model']['backbone.pos_embed'].shape[1] == 9
    report = convert.write(tmp_path / 'y.pkl', state, 'detectron2')
    assert not report.made
    assert_equal(weights.read(tmp_path / 'y.pkl')['model'], theirs)


def test_the_position_of_the_class_token_must_fit(file, tmp_path):
    state, _ = convert.read(file(vitdet_file('detectron2'), 'detectron2'))
    for wrong in ('text', [[1.0, 2.0]]):
        with pytest.raises(InputError, match='class_position is no list of 24 numbers'):
            convert.write(tmp_path / 'y.pkl', state | {'class_position': wrong}, 'detectron2')


def test_buffers_that_follow_from_the_config_are_left_out(file):
    theirs = vitdet_file('detectron2')
    extra = {
        'pixel_mean': np.ones([3, 1, 1], 'float32'),
        'pixel_std': np.ones([3, 1, 1], 'float32'),
        'proposal_generator.anchor_generator.cell_anchors.0': np.ones([3, 4], 'float32'),
    }
    _, report = convert.read(file(theirs | extra, 'detectron2'))
    assert set(report.dropped) == set(extra)


# the table in docs/weights.md


@pytest.mark.parametrize('column', DETECTORS)
@pytest.mark.parametrize('row', TARGETS)
def test_writing_a_detector_is_what_the_matrix_says(tmp_path, row, column):
    to, kind = TARGETS[row], DETECTORS[column]
    ours = state_of_kind(kind)
    path = tmp_path / f'x{SUFFIXES.get(to, ".pth")}'
    word = MATRIX[row][[*KINDS, *DETECTORS].index(column)].rpartition(' / ')[2]
    if word == 'refused':
        # some have no Swin at all
        what = '|'.join(map(re.escape, (kind, names.SWIN)))
        with pytest.raises(InputError, match=f'--to {to}: ({what}) cannot be written, because it'):
            convert.write(path, {'model': ours}, to)
        assert not path.exists()
        return
    assert word == 'exact'
    convert.write(path, {'model': ours}, to)
    assert_equal(convert.read(path)[0]['model'], ours)


@pytest.mark.parametrize('column', KINDS)
@pytest.mark.parametrize('row', ['mmdetection', 'detectron2'])
def test_other_models_begin_from_official_files_there(official, tmp_path, row, column):
    assert MATRIX[row][list(KINDS).index(column)] == NO
    state = official(KINDS[column])
    with pytest.raises(InputError, match='it has detectors alone.*the files that --to torch'):
        convert.write(tmp_path / 'x.pth', state, TARGETS[row])


def test_the_matrix_says_what_the_files_prove():
    for row, to in (('mmdetection', 'mmdet'), ('detectron2', 'detectron2')):
        exact = {kind for code_base, kind, _ in FILES.values() if code_base == to}
        cells = dict(zip(DETECTORS.values(), MATRIX[row][len(KINDS) :]))
        assert {kind for kind, cell in cells.items() if cell == 'exact / exact'} == exact


UNLIKE_VITDET = {
    'four taps': (
        lambda: mask_rcnn(
            vit(out_indices=(0, 1, 2, 2)), TapsFPN([WIDTH] * 4, out_channel=OUT), norm='BN'
        ),
        'it has no pyramid over four maps of a ViT',
    ),
    'one convolution': (
        lambda: mask_rcnn(num_convs=1),
        'its names are for a region proposal network of two convolutions',
    ),
    'batch normalisation': (
        lambda: mask_rcnn(norm='BN'),
        'its normalisations are over the channels (LN)',
    ),
}


@pytest.mark.parametrize('to', ['mmdet', 'detectron2'])
@pytest.mark.parametrize('make, reason', UNLIKE_VITDET.values(), ids=UNLIKE_VITDET)
def test_a_mask_rcnn_that_vitdet_has_not_is_kept_here_and_refused_there(tmp_path, to, make, reason):
    ours = state_of(make())
    convert.write(tmp_path / 'x.pd', {'model': ours}, 'paddle')
    state, report = convert.read(tmp_path / 'x.pd')
    assert_equal(state['model'], ours)
    assert report.kind == names.MASK_RCNN
    message = f'--to {to}: {names.MASK_RCNN} cannot be written, because {reason}'
    with pytest.raises(InputError, match=f'^{re.escape(message)}$'):
        convert.write(tmp_path / 'y.pth', state, to)


def test_detectron2_names_follow_from_patches_of_16_pixels(tmp_path):
    ours = state_of(mask_rcnn(vit(patch=8)))
    with pytest.raises(InputError, match='for patches of 16 x 16 pixels, not 8 x 8$'):
        convert.write(tmp_path / 'x.pkl', {'model': ours}, 'detectron2')
    convert.write(tmp_path / 'x.pth', {'model': ours}, 'mmdet')
    assert_equal(convert.read(tmp_path / 'x.pth')[0]['model'], ours)


def test_more_convolutions_than_vitdet_has_are_named(tmp_path):
    ours = state_of(mask_rcnn(box_convs=5))
    with pytest.raises(InputError, match='no place for roi_head.bbox_head.shared_convs.4.conv.w'):
        convert.write(tmp_path / 'x.pkl', {'model': ours}, 'detectron2')


# files that do not fit


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, *shape):
    return lambda tensors: tensors.update({name: np.ones(shape, 'float32')})


FLAWS = {
    'level': (
        'gfl swin bn',
        drop('neck.fpn_convs.2.conv.weight'),
        'holds a detector (GFL), but 1 of its tensors are missing: neck.fpn_convs.2.conv.weight',
    ),
    'tap': ('gfl pvt bn', drop('backbone.up3.1.bias'), 'are missing: backbone.up3.1.bias'),
    'scale': (
        'gfl swin bn',
        put('bbox_head.scales.1.scale', 1),
        'bbox_head.scales.1.scale has the shape [1]',
    ),
    'bins': (
        'gfl swin bn',
        put('bbox_head.gfl_reg.weight', 66, CHANNELS, 3, 3),
        'bbox_head.gfl_reg.weight has the shape [66, 32, 3, 3]',
    ),
    'head of another detector': (
        'gfl swin bn',
        put('bbox_head.atss_centerness.weight', 1, CHANNELS, 3, 3),
        'have no place in the model: bbox_head.atss_centerness.weight',
    ),
    'relative positions': (
        'vitdet detectron2',
        drop('backbone.net.blocks.1.attn.rel_pos_w'),
        'are missing: backbone.blocks.1.attn.rel_pos_w',
    ),
    'cascade': (
        'vitdet detectron2',
        put('roi_heads.box_head.0.conv1.weight', OUT, OUT, 3, 3),
        'have no place in the model: roi_heads.box_head.0.conv1.weight',
    ),
    'classes': (
        'vitdet detectron2',
        put('roi_heads.mask_head.predictor.weight', CLASSES + 1, OUT, 1, 1),
        'which contradicts',
    ),
    'positions': (
        'vitdet detectron2',
        put('backbone.net.pos_embed', 10, WIDTH),
        'backbone.pos_embed has the shape [10, 24]',
    ),
    'pyramid': (
        'vitdet mmdet',
        drop('neck.lateral_convs.1.norm_layer.bias'),
        'are missing: neck.lateral_convs.1.ln.bias',
    ),
}


@pytest.mark.parametrize('name, change, message', FLAWS.values(), ids=FLAWS)
def test_a_tensor_that_does_not_fit_is_named(file, name, change, message):
    code_base, _, make = FILES[name]
    theirs = make()
    change(theirs)
    with pytest.raises(InputError) as error:
        convert.read(file(theirs, code_base))
    assert message in str(error.value) and '\n' not in str(error.value)


class Malicious:
    def __reduce__(self):
        return os.system, ('touch broken-in',)


@pytest.mark.parametrize('place', ['model', 'beside'])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    contents = {'model': vitdet_file('detectron2'), '__author__': 'x'}
    if place == 'model':
        contents['model']['backbone.net.pos_embed'] = Malicious()
    else:
        contents['extra'] = Malicious()
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(contents))
    with pytest.raises(InputError, match=r'x.pkl: refused, because it names \w+.system'):
        convert.read('x.pkl')
    assert os.listdir() == ['x.pkl']


def test_a_damaged_pickle_is_an_error(file, tmp_path):
    path = file(vitdet_file('detectron2'), 'detectron2', '.pkl')
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match='is not a safe and complete weight file'):
        convert.read(path)


# into trainings


def test_a_training_begins_from_detectron2s_file_with_other_classes(file):
    theirs = vitdet_file('detectron2')
    model = MAEMaskRCNN(
        vit(),
        SimpleFeaturePyramid([WIDTH], out_channel=OUT),
        MAERPNHead(in_channels=OUT),
        MAERoIHead(in_channels=OUT, num_classes=5, box_width=HIDDEN),
    )
    start = models_zoo.start_from(model, str(file(theirs, 'detectron2', '.pkl')))
    last = ['bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits']
    fresh = {f'roi_head.{layer}.{part}' for layer in last for part in ('weight', 'bias')}
    assert set(start.fresh) == set(start.dropped) == fresh
    found = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    expected = ours_of(theirs, 'detectron2')
    assert_equal(
        {name: found[name] for name in start.copied},
        {name: expected[name] for name in start.copied},
    )


def test_a_training_begins_from_mmdetections_file(file):
    theirs = gfl_file('swin')
    model = gfl('swin')
    start = models_zoo.start_from(model, str(file(theirs, 'mmdet')))
    assert not start.fresh and not start.dropped
    found = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert_equal(found, ours_of(theirs, 'mmdet'))


def test_a_backbone_begins_from_a_detectors_file(file):
    theirs = vitdet_file('detectron2')
    path = str(file(theirs, 'detectron2', '.pkl'))
    backbone = vit(pretrained=path)
    table = backbone.state_dict()['pos_embed'].numpy()
    np.testing.assert_array_equal(table, theirs['backbone.net.pos_embed'][:, 1:])


def test_a_detector_is_no_classifier_or_other_detector(file):
    path = str(file(vitdet_file('detectron2'), 'detectron2'))
    with pytest.raises(InputError, match=re.escape('holds a detector (Mask R-CNN), which has no')):
        models_zoo.classifier_from(path)
    with pytest.raises(InputError, match='holds a ViT, and the model is a Swin'):
        det_weights.assign_from(gfl('swin'), path)
    path = str(file(gfl_file('swin'), 'mmdet'))
    with pytest.raises(InputError, match='holds a Swin of UM-MAE, and the model is a ViT'):
        det_weights.assign_from(mask_rcnn(), path)


@pytest.mark.parametrize('name', ['gfl swin bn', 'vitdet detectron2'])
def test_programs_for_other_models_say_what_the_file_holds(file, name):
    code_base, kind, make = FILES[name]
    path = str(file(make(), code_base))
    holds = re.escape(f'{path} holds {kind}')
    with pytest.raises(InputError, match=f'{holds}; det/export.py is for that'):
        main_export.build(SimpleNamespace(resume=path, use_ema=False, what=None))
    with pytest.raises(InputError, match=f'{holds}; give its encoder alone'):
        main_parity.describe(SimpleNamespace(src=path), convert.read(path)[0]['model'], {})


# the program


def test_the_program_converts_there_and_back(file, tmp_path, capsys):
    theirs = vitdet_file('detectron2')
    source = file(theirs, 'detectron2', '.pkl')

    def run(*arguments):
        program.main(program.PARSER.parse_args(list(map(str, arguments))))
        return capsys.readouterr().out.splitlines()

    lines = run(source, tmp_path / 'x.pd')
    kind = f'{names.MASK_RCNN}, {detectors.DETECTRON2.label}'
    assert lines[0] == f'{source}: {kind}; {len(theirs)} tensors'
    run(tmp_path / 'x.pd', tmp_path / 'y.pkl', '--to', 'detectron2')
    read = weights.read(tmp_path / 'y.pkl')
    assert_equal(read['model'], theirs)
    assert read['__author__'] == 'third-party' and read['licence'] == program.LICENCE
    with pytest.raises(InputError, match='--to mmdet is written to .pth$'):
        run(tmp_path / 'x.pd', tmp_path / 'y.pkl', '--to', 'mmdet')
