"""Segmentors over Swin and PVT: UM-MAE's numbers, weights from fine-tuning, all programs."""

import sys
from functools import partial

import numpy as np
import paddle
import pytest
from conftest import ROOT, slow
from paddleseg.cvlibs import Config, SegBuilder, manager
from PIL import Image

import main_finetune
import models_pvt
import models_swin
import seg.export
import seg.predict
import seg.train
import seg.val
from models_sizes import PYRAMIDS
from seg import weights
from seg.optimizer import LayerDecayAdamW
from seg.pyramid import MAEPVT, MAESwin
from util import convert
from util import weights as files
from util.errors import InputError

sys.path.append(str(ROOT / 'demo'))
import make_scenes

CONFIGS = ROOT / 'seg/configs/upernet_um_mae'
BASE = ROOT / 'seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml'
PUBLISHED = {
    name: CONFIGS / f'upernet_um_mae_{name}_ade20k_512x512_160k.yml'
    for name in ('swin_tiny', 'pvt_small')
}
NANO = {name: CONFIGS / f'upernet_um_mae_{name}.yml' for name in ('swin_nano', 'pvt_nano')}
SWIN = {
    'type': 'MAESwin',
    'img_size': 512,
    'patch_size': 4,
    'in_channels': 3,
    'embed_dim': 96,
    'depths': [2, 2, 6, 2],
    'num_heads': [3, 6, 12, 24],
    'window': 16,
    'posmlp_dim': 32,
    'mlp_ratio': 4.0,
    'drop_path_rate': 0.1,
    'fpn_out_dim': 768,
    'pretrained': None,
}
PVT = {
    'type': 'MAEPVT',
    'img_size': 512,
    'patch_size': 4,
    'in_channels': 3,
    'embed_dims': [64, 128, 320, 512],
    'depths': [3, 4, 6, 3],
    'num_heads': [1, 2, 5, 8],
    'mlp_ratios': [8, 8, 4, 4],
    'sr_ratios': [8, 4, 2, 1],
    'drop_path_rate': 0.1,
    'fpn_out_dim': 768,
    'pretrained': None,
}
nano_swin = partial(MAESwin, **PYRAMIDS['swin_nano_32'], img_size=32, fpn_out_dim=8)
nano_pvt = partial(MAEPVT, **PYRAMIDS['pvt_nano_32'], img_size=32, fpn_out_dim=8)
both = pytest.mark.parametrize('name', NANO)
published = pytest.mark.parametrize('name', PUBLISHED)


def backbone(name, **kwargs):
    return {'swin_nano': nano_swin, 'pvt_nano': nano_pvt}[name](**kwargs)


def segmentor(name, **kwargs):
    return manager.MODELS['UPerNetMAE'](5, backbone(name, **kwargs), channels=4, aux_channels=2)


@published
def test_the_configs_have_the_published_numbers(name):
    said, base = Config(str(PUBLISHED[name])).dic, Config(str(BASE)).dic
    expected = {'swin_tiny': SWIN, 'pvt_small': PVT}[name]
    assert said['model'] == base['model'] | {'backbone': expected}
    optimizer = {
        'type': 'LayerDecayAdamW',
        'layer_decay': 1.0,
        'beta1': 0.9,
        'beta2': 0.999,
        'weight_decay': 0.05,
    }
    assert said['optimizer'] == optimizer
    # test_seg_schedule.py judges the rates
    assert said['lr_scheduler']['type'] == 'WarmupOverPolynomialDecay'
    assert (said['batch_size'], said['iters']) == (2, 160000)
    assert said['test_config'] == {'is_slide': True, 'crop_size': [512, 512], 'stride': [341, 341]}
    for part in ('train_dataset', 'val_dataset', 'loss'):
        assert said[part] == base[part]


@published
def test_the_published_encoders_are_tapped_after_their_stages(name):
    """Counted from the papers' tables, without head and last normalisation.

    Each stage has a projection in addition.
    """
    said = dict(Config(str(PUBLISHED[name])).dic['model']['backbone'])
    model = manager.BACKBONES[said.pop('type')](**said)
    widths, ends, sides = {
        'swin_tiny': ((96, 192, 384, 768), [1, 3, 9, 11], [128, 64, 32, 16]),
        'pvt_small': ((64, 128, 320, 512), [2, 6, 12, 15], [128, 64, 32, 16]),
    }[name]
    assert (
        model.ends == ends
        and model.feat_channels == [768] * 4
        and model.patch_embed.grid == (sides[0], sides[0])
    )
    assert [getattr(model, f'fpn{i}').weight.shape for i in (1, 2, 3, 4)] == [
        [768, width, 1, 1] for width in widths
    ]
    classifier = {'swin_tiny': models_swin.swin_tiny_256, 'pvt_small': models_pvt.pvt_small_256}[
        name
    ]()
    # without the head and its norm
    count = sum(p.size for p in classifier.parameters()) - 1000 * (widths[3] + 1) - 2 * widths[3]
    grown = 64 * (128**2 - 64**2) if name == 'pvt_small' else 0  # positions
    assert sum(p.size for p in model.parameters()) == count + grown + sum(
        768 * (width + 1) for width in widths
    )
    rates = [block.drop_path.rate for block in model.blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, len(rates)))
    norms = [part for part in model.sublayers() if isinstance(part, paddle.nn.LayerNorm)]
    assert {part._epsilon for part in norms} == {1e-5}
    assert len(norms) == {'swin_tiny': 1 + 12 * 2 + 3, 'pvt_small': 16 * 3}[name]
    if name == 'swin_tiny':
        assert [block.attn.window for block in model.blocks] == [16] * 12
        assert [block.attn.shift for block in model.blocks] == [0, 8] * 5 + [0, 0]


@both
def test_the_heads_take_the_maps_as_they_are(name):
    model = segmentor(name)
    model.eval()
    x = paddle.randn([2, 3, 32, 32])
    maps = model.backbone(x)
    assert [y.shape for y in maps] == [[2, 8, side, side] for side in (32, 16, 8, 4)]
    np.testing.assert_array_equal(model(x)[0].numpy(), model.decode_head(maps).numpy())
    assert not [key for key in model.state_dict() if key.startswith('neck')]
    model.train()
    seen = []
    model.auxiliary_head.register_forward_pre_hook(
        lambda layer, inputs: seen.append(inputs[0].shape)
    )
    assert [y.shape for y in model(x)] == [[2, 5, 32, 32]] * 2 and seen == [[2, 8, 8, 8]]


@pytest.fixture(scope='module')
def finetuned(classify):
    """finetuned('swin_nano') -> the last checkpoint of main_finetune.py; each is trained once."""
    done = {}

    def train(name):
        if name not in done:
            _, folder = classify(
                main_finetune,
                *'--input_size 32 --in_chans 3 --epochs 1 --warmup_epochs 0 --blr 0.01'.split(),
                '--model',
                f'{name}_32',
            )
            done[name] = str(folder / 'checkpoint-0.pd')
        return done[name]

    return train


@both
def test_a_backbone_has_the_features_of_the_fine_tuned_classifier(name, finetuned, capsys):
    file = finetuned(name)
    # with the epsilon of the segmentor's encoder
    classifier = {
        'swin_nano': partial(models_swin.swin_nano_32, norm_layer=paddle.nn.LayerNorm),
        'pvt_nano': models_pvt.pvt_nano_32,
    }[name](num_classes=3)
    tensors = files.read(file)['model']
    classifier.set_state_dict(tensors)
    model = backbone(name, pretrained=file)
    said = capsys.readouterr().out
    assert 'dropped: head.weight, head.bias, fc_norm.weight, fc_norm.bias' in said
    assert 'fresh: fpn1.weight, fpn1.bias, fpn2.weight, fpn2.bias and 4 more' in said
    own = model.state_dict()
    for key in own.keys() & tensors.keys():
        np.testing.assert_array_equal(own[key].numpy(), tensors[key])
    assert len(own.keys() & tensors.keys()) == len(tensors) - 4 == len(own) - 8
    classifier.eval(), model.eval()
    x = paddle.randn([2, 3, 32, 32])
    features = classifier.features(x)
    for stage, (found, end) in enumerate(
        zip(model(x), {'swin_nano': (1, 2, 4, 5), 'pvt_nano': (0, 1, 3, 4)}[name]), 1
    ):
        projection = getattr(model, f'fpn{stage}')
        by_hand = np.einsum(
            'nhwc,dc->ndhw', features[end].numpy(), projection.weight.numpy()[:, :, 0, 0]
        )
        np.testing.assert_allclose(found.numpy(), by_hand, atol=1e-5 * np.abs(by_hand).max())


@both
def test_a_segmentor_begins_from_one_in_pytorch_too(name, finetuned, tmp_path):
    state = files.read(finetuned(name))
    convert.write(tmp_path / 'checkpoint-99.pth', state, 'torch')
    model = manager.MODELS['UPerNetMAE'](
        5,
        backbone(name),
        channels=4,
        aux_channels=2,
        pretrained=str(tmp_path / 'checkpoint-99.pth'),
    )
    for key, array in state['model'].items():
        if not key.startswith(('head.', 'fc_norm.')):
            np.testing.assert_array_equal(
                model.state_dict()[f'backbone.{key}'].numpy(), array, err_msg=key
            )


@both
def test_a_backbone_begins_from_a_segmentor(name, tmp_path):
    whole = segmentor(name)
    paddle.save(whole.state_dict(), str(tmp_path / 'model.pdparams'))
    for key, tensor in (
        backbone(name, pretrained=str(tmp_path / 'model.pdparams')).state_dict().items()
    ):
        np.testing.assert_array_equal(
            tensor.numpy(), whole.state_dict()[f'backbone.{key}'].numpy(), err_msg=key
        )


def test_swins_weights_fit_any_grid_and_pvts_positions_are_interpolated(
    finetuned, tmp_path, capsys
):
    swin = nano_swin(img_size=64, pretrained=finetuned('swin_nano'))
    assert 'resized' not in capsys.readouterr().out
    maps = swin(paddle.randn([1, 3, 64, 64]))
    assert [y.shape[2:] for y in maps] == [[64, 64], [32, 32], [16, 16], [8, 8]]
    state = files.read(finetuned('pvt_nano'))
    # each place has the number of its row
    rows = np.repeat(np.arange(32, dtype='float32'), 32)[None, :, None]
    state['model']['pos_embed'] = np.broadcast_to(rows, [1, 1024, 16]).copy()
    paddle.save({'model': state['model']}, str(tmp_path / 'rows.pd'))
    pvt = nano_pvt(img_size=64, pretrained=str(tmp_path / 'rows.pd'))
    assert 'resized: pos_embed 1024 to 4096 patches' in capsys.readouterr().out
    places = pvt.pos_embed.numpy().reshape(64, 64, 16)
    between = np.broadcast_to((np.arange(64)[4:-4, None, None] - 0.5) / 2, [56, 64, 16])
    # a cubic with a = -.75 deviates from the line by 3/64
    np.testing.assert_allclose(places[4:-4], between, atol=0.05)
    assert not pvt.pos_embed.stop_gradient


def test_what_does_not_fit_is_named(finetuned, models, tmp_path):
    swin, pvt = finetuned('swin_nano'), finetuned('pvt_nano')
    for layer, file, message in (
        (nano_pvt, swin, 'holds a Swin of UM-MAE, and the model is a PVT of UM-MAE'),
        (nano_swin, pvt, 'holds a PVT of UM-MAE, and the model is a Swin of UM-MAE'),
        (
            nano_swin,
            models / 'official_pooled.pth',
            'holds a ViT, and the model is a Swin of UM-MAE',
        ),
        (
            partial(nano_swin, embed_dim=8),
            swin,
            'patch_embed.proj.weight is .16, 3, 1, 1. there, .8, 3, 1, 1. here',
        ),
        (
            partial(nano_pvt, depths=(1, 1, 2, 2)),
            pvt,
            "does not fit; it lacks 18 of the model's tensors: blocks.5.attn.kv.bias",
        ),
    ):
        with pytest.raises(InputError, match=message) as error:
            layer(pretrained=str(file))
        assert '\n' not in str(error.value)
    with pytest.raises(
        InputError,
        match='checkpoint-0.pd holds a classifier by global pooling; a segmentor .* is needed',
    ):
        weights.assign_from(segmentor('swin_nano'), swin)
    state = segmentor('swin_nano').state_dict()
    del state['backbone.fpn3.bias']
    paddle.save(state, str(tmp_path / 'part.pdparams'))
    with pytest.raises(
        InputError, match='does not fit the model: backbone.fpn3.bias .8. is missing there'
    ):
        weights.assign_from(segmentor('swin_nano'), str(tmp_path / 'part.pdparams'))
    with pytest.raises(InputError, match='windows of 16 x 16 do not divide a map of 40 x 40'):
        segmentor('swin_nano', img_size=160)


@published
def test_all_but_vectors_decay_as_in_the_original(name):
    """The original's constructor leaves out vectors, biases, `pos_embed` and `cls_token`.

    Its parameters are named `backbone.pos_embed...`, which is neither, so the tables decay.
    """
    builder = SegBuilder(Config(str(NANO[name.partition('_')[0] + '_nano'])))
    model, optimizer = builder.model, builder.optimizer
    decays = {
        name: optimizer._apply_decay_param_fun(parameter.name)
        for name, parameter in model.named_parameters()
        if not parameter.stop_gradient
    }
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert decays[name] == (parameter.ndim > 1 and not name.endswith('.bias')), name
    tables = [name for name in decays if 'pos_embed' in name]
    assert all(decays[name] for name in tables)
    assert ('pvt' in type(model.backbone).__name__.lower()) == bool(tables)


def test_rates_and_decays_go_by_blocks():
    model = segmentor('pvt_nano')
    optimizer = LayerDecayAdamW(layer_decay=0.5, undecayed=['backbone.pos_embed'])(model, 1e-3)
    layers = {
        'pos_embed': 0,
        'patch_embed.proj.weight': 0,
        'blocks.0.attn.q.weight': 1,
        'blocks.1.downsample.proj.weight': 2,
        'blocks.4.attn.norm.bias': 5,
        'fpn1.weight': 6,
    }
    named = dict(model.named_parameters())
    for name, layer in layers.items():
        assert named[f'backbone.{name}'].optimize_attr['learning_rate'] == 0.5 ** (6 - layer), name
    assert named['decode_head.conv_seg.weight'].optimize_attr['learning_rate'] == 1
    trained = {name: p for name, p in named.items() if not p.stop_gradient}
    undecayed = {
        name for name, p in trained.items() if not optimizer._apply_decay_param_fun(p.name)
    }
    assert undecayed == {name for name, p in trained.items() if p.ndim == 1} | {
        'backbone.pos_embed'
    }
    with pytest.raises(InputError, match='undecayed names pos_embed, but the model has no such'):
        LayerDecayAdamW(undecayed=['pos_embed'])(model, 1e-3)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'scenes'
    make_scenes.main(root, 0, {'training': 8, 'validation': 2}, 1)
    return root


def run(program, *flags):
    program.main(program.PARSER.parse_args([*map(str, flags), '--device', 'cpu']))


def predicted(folder):
    return [
        np.array(Image.open(file))
        for file in sorted((folder / 'pseudo_color_prediction').rglob('*.png'))
    ]


@pytest.mark.parametrize('name', [slow('swin_nano'), 'pvt_nano'])
def test_the_programs_train_evaluate_slide_and_export(name, scenes, finetuned, tmp_path, capsys):
    roots = [f'{part}_dataset.dataset_root={scenes}' for part in ('train', 'val')]
    config = ['--config', NANO[name], '--opts', *roots]
    changes = [f'model.backbone.pretrained={finetuned(name)}', 'lr_scheduler.warmup_iters=5']
    flags = '--iters 25 --batch_size 4 --log_iters 5 --save_interval 25 --do_eval'.split()
    run(seg.train, *config, *changes, *flags, '--save_dir', tmp_path)
    printed = capsys.readouterr().out
    losses = [
        float(line.partition('loss: ')[2].split(',')[0])
        for line in printed.splitlines()
        if 'loss: ' in line
    ]
    assert len(losses) == 5 and losses[-1] < 0.8 * losses[0]
    trained = tmp_path / 'best_model/model.pdparams'
    run(seg.val, *config, '--model_path', trained)
    said = capsys.readouterr().out
    assert f'mIoU: {printed.rpartition("mIoU: ")[2][:6]}' in said and 'over a pyramid' in said

    model = SegBuilder(Config(str(NANO[name]))).model
    weights.assign_from(model, str(trained))
    again = SegBuilder(Config(str(NANO[name]), opts=[f'model.pretrained={trained}'])).model
    assert (model.backbone.fpn1.weight == again.backbone.fpn1.weight).all()

    images = ['--image_path', scenes / 'images/validation']
    exported = tmp_path / 'exported'
    flags = ['--config', NANO[name], '--model_path', trained]
    run(seg.predict, *flags, '--save_dir', tmp_path / 'live', *images)
    run(seg.export, *flags, '--save_dir', exported)
    flags = ['--engine', 'inference', '--model_path', exported]
    run(seg.predict, *flags, '--save_dir', tmp_path / 'static', *images)
    live, static = predicted(tmp_path / 'live'), predicted(tmp_path / 'static')
    assert len(live) == 2 and live[0].shape == (40, 52)
    for ours, theirs in zip(live, static):
        np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(live)) > 1
