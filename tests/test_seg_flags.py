"""The flags of PaddleSeg 2.8.0's tools, the config and the way of testing: accepted or refused."""

import pytest
from conftest import ROOT
from paddleseg.cvlibs import SegBuilder

import seg
import seg.export
import seg.predict
import seg.val
from seg import flags
from util.errors import InputError

TINY = str(ROOT / 'seg/configs/upernet_mae/upernet_mae_tiny.yml')
SLIDE = '--is_slide --crop_size 512 256 --stride 341 200 '
AUGMENT = '--scales 0.5 1.0 --flip_horizontal --flip_vertical '
COMMANDS = {
    'val': '--config C --model_path M --num_workers 2 --device cpu --aug_eval --data_format NCHW '
    '--auc_roc ' + AUGMENT + SLIDE + '--opts a.b=1 c=2',
    'predict': '--config C --model_path M --image_path P --save_dir D --device cpu --aug_pred '
    '--custom_color 1 2 3 ' + AUGMENT + SLIDE,
    'export': '--config C --model_path M --save_dir D --input_shape 1 3 512 512 '
    '--output_op softmax',
}


@pytest.mark.parametrize('program', COMMANDS)
def test_paddlesegs_command_lines_are_understood(program):
    args = vars(getattr(seg, program).PARSER.parse_args(COMMANDS[program].split()))
    assert args['config'] == 'C' and args['model_path'] == 'M'
    for name, value in {
        'crop_size': [512, 256],
        'stride': [341, 200],
        'scales': [0.5, 1.0],
        'flip_vertical': True,
        'opts': ['a.b=1', 'c=2'],
        'custom_color': [1, 2, 3],
        'input_shape': [1, 3, 512, 512],
    }.items():
        if f'--{name} ' in COMMANDS[program]:
            assert args[name] == value


def test_defaults_are_paddlesegs():
    args = seg.export.PARSER.parse_args([])
    assert args.save_dir == './output/inference_model'
    assert (args.input_shape, args.output_op) == (None, 'argmax')
    args = seg.predict.PARSER.parse_args(['--image_path', 'P'])
    assert (args.save_dir, args.engine) == ('./output/result', 'dygraph')
    assert (args.aug_pred, args.is_slide) == (False, False)
    assert seg.val.PARSER.parse_args([]).num_workers == 0


def test_flags_go_over_the_configs_test_config():
    said = {'is_slide': True, 'crop_size': [64, 64], 'stride': [43, 43]}
    assert flags.testing(said, {}) == said
    assert flags.testing(said, {'stride': [64, 64], 'crop_size': None}) == said | {
        'stride': [64, 64]
    }
    assert flags.testing(said, {'scales': [0.5], 'flip_horizontal': True}, aug=True) == said | {
        'aug_eval': True,
        'scales': [0.5],
        'flip_horizontal': True,
    }
    slide = {'is_slide': True, 'crop_size': [8, 8], 'stride': [4, 4]}
    assert flags.testing({}, slide)['crop_size'] == [8, 8]


@pytest.mark.parametrize(
    'said, asked, message',
    [
        ({'strid': 3}, {}, 'does not know the key strid'),
        ({'is_slide': True}, {}, 'needs --crop_size WIDTH HEIGHT'),
        ({'is_slide': True, 'crop_size': [8, 8]}, {}, 'needs --stride'),
        ({}, {'scales': [2.0]}, '--scales has no effect'),
        ({}, {'stride': [2, 2]}, '--stride has no effect'),
        (
            {'is_slide': True, 'crop_size': [8, 8], 'stride': [9, 8]},
            {},
            'stride .9, 8. is larger than crop_size',
        ),
        (
            {'scales': 'abc'},
            {},
            'test_config.scales are factors of the size, numbers above 0, not abc',
        ),
        ({'aug_eval': True, 'scales': [1.0, 0]}, {}, r'test_config.scales .* not \[1.0, 0\]'),
        ({'scales': []}, {}, r'test_config.scales .* not \[\]'),
    ],
)
def test_what_cannot_be_meant_is_refused(said, asked, message):
    with pytest.raises(InputError, match=message):
        flags.testing(said, asked)


@pytest.mark.parametrize(
    'text, message',
    [
        ('_base_: nowhere.yml', '_base_ .*nowhere.yml does not exist'),
        ('a: [1', 'is no YAML'),
        ('a: 1', 'No batch_size specified'),
        (f'_base_: {TINY}\nval_datset: {{}}', 'does not know the key val_datset'),
        ('- 1', 'config.yml: '),
    ],
)
def test_a_wrong_config_is_named(tmp_path, text, message):
    file = tmp_path / 'config.yml'
    file.write_text(text)
    with pytest.raises(
        InputError, match=f'{file}.*{message}' if message not in f'{file}: ' else message
    ) as caught:
        flags.configuration(str(file))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'opts, what, message',
    [
        (
            'model.backbone.embed_dims=3',
            'model',
            "model: MAEViT: .*unexpected keyword argument 'embed_dims'",
        ),
        ('model.type=UPerNetMAY', 'model', 'UPerNetMAY'),
        ('model.num_classes=3', 'model', r'num_classes is not consistent'),
        (
            'val_dataset.dataset_root=nowhere',
            'val_dataset',
            '^ADE20K is not at dataset_root nowhere',
        ),
        ('model.pretrained=nowhere.pd', 'model', '^nowhere.pd: no such file'),
    ],
)
def test_a_wrong_value_of_a_config_is_named(opts, what, message):
    builder = SegBuilder(flags.configuration(TINY, [opts]))
    with pytest.raises(InputError, match=message) as caught:
        flags.build(builder, what, TINY)
    assert '\n' not in str(caught.value)
