"""python -m util.convert as a user runs it: its messages, its errors and its files."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml
from conftest import ROOT
from PIL import Image

import models_sizes
import models_zoo
from util import convert, weights
from util.convert import __main__ as program
from util.convert import hugging_face, names
from util.errors import InputError
from util.weights import paddle_file, safetensors_file, torch_file


@pytest.fixture
def run(capsys):
    """run(SRC, DST, flags ...) -> the output, within this process."""

    def run(*arguments):
        program.main(program.PARSER.parse_args(list(map(str, arguments))))
        return capsys.readouterr().out

    return run


@pytest.fixture
def variant(official, tmp_path):
    """variant(change, kind) writes an official encoder (or another kind) changed by `change`."""

    def variant(change, kind=names.ENCODER):
        tensors = convert.renamed(official(kind)['model'], 'torch')[0]
        change(tensors)
        torch_file.write(tmp_path / 'x.pth', {'model': tensors})
        return tmp_path / 'x.pth'

    return variant


# messages


def test_the_command_converts_and_prints_its_report_and_the_licence(models, tmp_path):
    command = [
        sys.executable,
        '-m',
        'util.convert',
        models / 'official_encoder.pth',
        tmp_path / 'x.pd',
    ]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        f'{models}/official_encoder.pth: an encoder, PyTorch, official or timm names; 30 tensors',
        f'wrote {tmp_path}/x.pd: an encoder, Paddle; 30 tensors',
        f'licence: {program.LICENCE}',
    ]
    assert os.listdir(tmp_path) == ['x.pd']
    ran = subprocess.run(
        [*command[:-1], tmp_path / 'x.png'], capture_output=True, text=True, cwd=ROOT
    )
    assert ran.returncode == 2 and 'Traceback' not in ran.stderr
    assert ran.stderr.splitlines()[-1] == (
        f'python -m util.convert: error: DST {tmp_path}/x.png: '
        '--to paddle is written to .pd or .pdparams'
    )


@pytest.mark.parametrize(
    'to, name',
    [
        ('paddle', 'x.pd'),
        ('torch', 'x.pth'),
        ('torch', 'x.safetensors'),
        ('hf', 'x.safetensors'),
        ('timm', 'x.safetensors'),
        ('mmpretrain', 'x.pth'),
    ],
)
def test_the_licence_and_the_source_go_with_the_weights_through_every_format(
    run, models, tmp_path, to, name
):
    source = models / 'timm_token.safetensors'  # its metadata has a licence
    said = run(source, tmp_path / name, '--to', to, '--licence', 'not this one')
    assert said.endswith('licence: made for tests\n')
    assert weights.read(tmp_path / name)['source'] == {
        'file': source.name,
        'sha256': hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    again = run(tmp_path / name, tmp_path / 'again.pd', '--licence', 'nor this one')
    assert (
        again.endswith('licence: made for tests\n')
        and weights.read(tmp_path / 'again.pd')['licence'] == 'made for tests'
    )


def test_a_licence_can_be_given_where_the_file_has_none(run, models, tmp_path):
    assert run(models / 'timm_encoder.pth', tmp_path / 'x.pd', '--licence', 'MIT').endswith(
        'licence: MIT\n'
    )
    assert weights.read(tmp_path / 'x.pd')['licence'] == 'MIT'


def test_metadata_of_others_spell_it_license(run, models, tmp_path):
    tensors = weights.read(models / 'timm_pooled.safetensors')
    safetensors_file.write(tmp_path / 'x.safetensors', tensors, {'license': 'apache-2.0'})
    assert run(tmp_path / 'x.safetensors', tmp_path / 'x.pd').endswith('licence: apache-2.0\n')


# models that do not fit


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, array):
    return lambda tensors: tensors.update({name: array})


FLAWS = {  # change of the tensors -> the message, and whether --partial accepts it
    'leftover': (
        put('blocks.0.ls1.gamma', np.ones(24, 'float32')),
        '1 of its tensors have no place in the model: '
        'blocks.0.ls1.gamma (python -m util.convert --partial',
        True,
    ),
    'missing': (
        drop('blocks.1.mlp.fc2.bias'),
        'an encoder, but 1 of its tensors are missing: blocks.1.mlp.fc2.bias',
        True,
    ),
    'block missing': (
        lambda tensors: [
            tensors.pop(name) for name in list(tensors) if name.startswith('blocks.0')
        ],
        'an encoder, but 12 of its tensors are missing: blocks.0.norm1.weight',
        True,
    ),
    'shape': (
        put('norm.weight', np.ones(23, 'float32')),
        'norm.weight has the shape [23] (in, out), which contradicts cls_token',
        False,
    ),
    'dimensions': (
        put('norm.weight', np.ones([24, 1], 'float32')),
        'norm.weight has the shape [1, 24]',
        False,
    ),
    'hidden': (
        put('blocks.1.mlp.fc1.weight', np.ones([95, 24], 'float32')),
        'contradicts blocks.0.mlp.fc1.weight',
        False,
    ),
    'both norms': (
        lambda tensors: tensors.update(
            {f'fc_norm.{part}': np.ones(24, 'f') for part in ('weight', 'bias')}
        ),
        'holds an encoder, which has no norm.weight, norm.bias',
        False,
    ),
    'decoder of a classifier': (
        put('head.weight', np.ones([5, 24], 'float32')),
        'head.bias',
        False,
    ),
    'integers': (
        put('norm.bias', np.ones(24, 'int64')),
        'norm.bias is of type int64; weights are floating-point numbers',
        False,
    ),
    'twice': (put('module.norm.bias', np.ones(24, 'float32')), 'has some tensors twice', False),
}


@pytest.mark.parametrize('change, message, partly', FLAWS.values(), ids=FLAWS)
def test_a_tensor_that_does_not_fit_is_named(variant, change, message, partly):
    path = variant(change, names.AUTOENCODER if 'head' in message else names.ENCODER)
    with pytest.raises(InputError) as error:
        convert.read(path)
    assert (
        str(path) in str(error.value)
        and message in str(error.value)
        and '\n' not in str(error.value)
    )
    if partly:
        convert.read(path, partial=True)
    else:
        with pytest.raises(InputError):
            convert.read(path, partial=True)


def test_partial_says_what_it_left_out(run, variant, tmp_path):
    path = variant(
        lambda tensors: (tensors.pop('norm.bias'), tensors.update({'gate': np.ones(2, 'float32')}))
    )
    assert 'dropped gate: no part of a model known here' in run(
        path, tmp_path / 'x.pd', '--partial'
    )
    assert len(weights.read(tmp_path / 'x.pd')['model']) == 29


@pytest.mark.parametrize(
    'change',
    [
        drop('vit.encoder.layer.1.attention.attention.key.bias'),
        put('vit.encoder.layer.1.attention.attention.key.bias', np.ones(3, 'float32')),
    ],
)
def test_query_key_and_value_come_together(official, tmp_path, change):
    tensors = convert.renamed(official(names.ENCODER)['model'], 'hf')[0]
    change(tensors)
    torch_file.write(tmp_path / 'x.bin', tensors)
    with pytest.raises(
        InputError, match='blocks.1.attn.qkv.bias needs query, key and value of one shape'
    ):
        convert.read(tmp_path / 'x.bin')


def test_an_affine_part_that_does_something_is_no_probe_of_ours(official, tmp_path):
    for scale, refused in ((1, False), (1.5, True)):
        model = official(names.PROBE)['model'] | {'head.0.weight': np.full(24, scale, 'float32')}
        paddle_file.write(tmp_path / 'x.pd', {'model': model})
        if refused:
            with pytest.raises(InputError, match='no place in the model: head.0.weight'):
                convert.read(tmp_path / 'x.pd')
        else:
            assert '1 everywhere' in convert.read(tmp_path / 'x.pd')[1].dropped['head.0.weight']


@pytest.mark.parametrize(
    'contents, message',
    [
        ({'a': np.ones(2), 'b': np.ones(2)}, 'holds no model known here; its keys begin with a, b'),
        (
            {'epoch': 3, 'model': 'vit'},
            'it has neither "model" nor "state_dict", but epoch, model',
        ),
        (
            {'model': {'cls_token': [1, 2]}},
            "its 'model' holds cls_token where tensors are expected",
        ),
        ({'model': {}}, "its 'model' holds nothing"),
        ({}, 'but nothing'),
        ({'model': {3: np.ones(2)}}, "its 'model' holds 3"),
    ],
)
def test_what_is_no_known_model_is_named(tmp_path, contents, message):
    torch_file.write(tmp_path / 'x.pth', contents)
    with pytest.raises(InputError) as error:
        convert.read(tmp_path / 'x.pth')
    assert message in str(error.value)


# SRC and DST

SOURCES = {
    'page.pth': (b'<!DOCTYPE html>', 'a web page'),
    'empty.pth': (b'', 'is empty'),
    'missing.pth': (None, 'no such file'),
    'pointer.bin': (b'version https://git-lfs', 'git lfs pull'),
    'cut.pth': (b'PK\3\4half', 'is cut short'),
}


@pytest.mark.parametrize('name', SOURCES)
def test_a_source_that_cannot_be_read_leaves_nothing(run, tmp_path, name):
    contents, message = SOURCES[name]
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    (tmp_path / 'out').mkdir()
    with pytest.raises(InputError, match=message):
        run(tmp_path / name, tmp_path / 'out/x.pd')
    assert os.listdir(tmp_path / 'out') == []


@pytest.mark.parametrize(
    'to, name, message',
    [
        ('torch', 'x.pd', '--to torch is written to .pth or .safetensors'),
        ('paddle', 'x', 'to paddle is written to .pd'),
        ('timm', 'x', '--to timm is written to .safetensors or .pth'),
        ('hf', 'x.pth', 'is written to a folder or .safetensors'),
        ('paddle', 'none/x.pd', 'there is no folder .*/none$'),
        ('hf', 'none/x', 'there is no folder'),
        ('paddle', 'folder.pd', 'is a folder already'),
        ('hf', 'file', 'is a file already'),
    ],
)
def test_a_destination_that_does_not_fit_is_named(run, models, tmp_path, to, name, message):
    (tmp_path / 'folder.pd').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=message):
        run(models / 'official_encoder.pth', tmp_path / name, '--to', to)
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder.pd']


@pytest.mark.parametrize('link', [os.symlink, os.link])
def test_the_source_is_never_the_destination(run, models, tmp_path, link):
    (tmp_path / 'x.pth').write_bytes((models / 'official_encoder.pth').read_bytes())
    link(tmp_path / 'x.pth', tmp_path / 'y.pth')
    for name in ('x.pth', 'y.pth'):
        with pytest.raises(InputError, match='is SRC itself'):
            run(tmp_path / 'x.pth', tmp_path / name, '--to', 'torch')


@pytest.mark.parametrize(
    'to, name', [('paddle', 'x.pd'), ('torch', 'x.pth'), ('timm', 'x.safetensors')]
)
def test_a_destination_is_replaced_whole_or_not_at_all(
    run, models, tmp_path, monkeypatch, to, name
):
    (tmp_path / name).write_bytes(b'before')
    with monkeypatch.context() as patch:
        patch.setattr(
            os,
            'replace',
            lambda *paths: (_ for _ in ()).throw(OSError(28, 'No space left on device')),
        )
        message = (
            rf'/{name} cannot be written \(No space left on device\); '
            'what was there before is untouched'
        )
        with pytest.raises(InputError, match=message):
            run(models / 'official_encoder.pth', tmp_path / name, '--to', to)
    assert (tmp_path / name).read_bytes() == b'before' and os.listdir(tmp_path) == [name]
    run(models / 'official_encoder.pth', tmp_path / name, '--to', to)
    assert len(convert.read(tmp_path / name)[0]['model']) == 30 and os.listdir(tmp_path) == [name]


# folders of Hugging Face


def test_a_folder_needs_one_weight_file(models, tmp_path):
    whole = (models / 'hf_memory.bin').read_bytes()
    with pytest.raises(
        InputError, match='is a folder with neither model.safetensors nor pytorch_model.bin'
    ):
        convert.read(tmp_path)
    (tmp_path / 'pytorch_model.bin').write_bytes(whole)
    assert len(convert.read(tmp_path)[0]['model']) == 50
    (tmp_path / 'model.safetensors').write_bytes(whole)
    with pytest.raises(
        InputError,
        match='is a folder with model.safetensors and pytorch_model.bin; name a weight file',
    ):
        convert.read(tmp_path)
    for name in hugging_face.FILES:
        (tmp_path / name).unlink()
    (tmp_path / 'model.safetensors.index.json').touch()
    with pytest.raises(
        InputError, match='has its weights in several files .model.safetensors.index.json.; write'
    ):
        convert.read(tmp_path)


def test_a_folder_says_how_the_model_is_built_or_is_not_made(run, models, encoder, tmp_path):
    with pytest.raises(
        InputError, match='config.json needs the number of heads, which no shape shows'
    ):
        run(models / 'official_encoder.pth', tmp_path / 'x', '--to', 'hf')
    assert os.listdir(tmp_path) == []
    run(encoder, tmp_path / 'x', '--to', 'hf')
    assert sorted(os.listdir(tmp_path / 'x')) == [
        'README.md',
        'config.json',
        'model.safetensors',
        'preprocessor_config.json',
    ]
    config = json.loads((tmp_path / 'x/config.json').read_text())
    expected = {
        'hidden_size': 96,
        'num_attention_heads': 3,
        'decoder_num_attention_heads': 2,
        'image_size': 16,
        'patch_size': 4,
        'num_channels': 1,
        'layer_norm_eps': 1e-6,
        'norm_pix_loss': False,
        'intermediate_size': 384,
    }
    assert {name: config[name] for name in expected} == expected
    for name, array in weights.read(encoder)['model'].items():
        np.testing.assert_array_equal(convert.read(tmp_path / 'x')[0]['model'][name], array)


def test_what_config_json_assumes_is_said(encoder, tmp_path):
    state = {'model': weights.read(encoder)['model']}
    assert 'made norm_pix_loss: false in config.json, because SRC does not say it' in str(
        convert.write(tmp_path / 'x', state, 'hf', models_sizes.size_of(state['model']))
    )


@pytest.mark.parametrize('global_pool', [False, True])
def test_a_folder_of_a_classifier_tells_labels_evaluation_and_licence(run, tmp_path, global_pool):
    """transformers and timm open it in tests/originals/test_open_folder.py."""
    model = models_zoo.classifier('vit_nano_patch4', num_classes=2, global_pool=global_pool)
    state = {'model': model.state_dict(), 'classes': ['a cat', 'a dog']}
    paddle.save(state | {'args': {'mean': [0.1, 0.2, 0.3]}}, str(tmp_path / 'x.pd'))
    run(tmp_path / 'x.pd', tmp_path / 'x', '--to', 'hf', '--licence', 'CC-BY-NC 4.0')

    config = json.loads((tmp_path / 'x/config.json').read_text())
    if global_pool:
        assert config['label_names'] == ['a cat', 'a dog'] and 'model_type' not in config
        own = {'img_size': 32, 'patch_size': 4, 'embed_dim': 96, 'depth': 4, 'num_heads': 3}
        assert config['model_args'] == own | {'in_chans': 3, 'global_pool': 'avg'}
    else:
        assert config['id2label'] == {'0': 'a cat', '1': 'a dog'}
        assert config['label2id'] == {'a cat': 0, 'a dog': 1}
    evaluation = config['pretrained_cfg']
    assert evaluation['input_size'] == [3, 32, 32] and evaluation['crop_pct'] == 0.875
    assert evaluation['mean'] == [0.1, 0.2, 0.3] and evaluation['std'] == [0.229, 0.224, 0.225]

    processor = json.loads((tmp_path / 'x/preprocessor_config.json').read_text())
    assert processor['size'] == {'shortest_edge': 36} and processor['resample'] == Image.BICUBIC
    assert processor['crop_size'] == {'height': 32, 'width': 32}
    assert processor['image_mean'] == evaluation['mean']
    _, header, card = (tmp_path / 'x/README.md').read_text().split('---\n')
    facts = yaml.safe_load(header)
    assert facts['license'] == 'cc-by-nc-4.0'
    assert facts['library_name'] == ('timm' if global_pool else 'transformers')
    assert 'Licence: CC-BY-NC 4.0' in card and weights.sha256(tmp_path / 'x.pd') in card
    for name, array in convert.read(tmp_path / 'x')[0]['model'].items():
        np.testing.assert_array_equal(array, model.state_dict()[name].numpy())


def test_a_licence_that_the_hub_does_not_know_is_other(run, encoder, tmp_path):
    run(encoder, tmp_path / 'x', '--to', 'hf', '--licence', 'ask: "me"')
    _, header, _ = (tmp_path / 'x/README.md').read_text().split('---\n')
    facts = yaml.safe_load(header)
    assert (facts['license'], facts['license_name']) == ('other', 'ask: "me"')
