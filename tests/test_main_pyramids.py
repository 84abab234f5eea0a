"""Swin and PVT in the programs: pre-training (UM, SimMIM), fine-tuning, probing, the demo."""

import functools
import json

import numpy as np
import paddle
import pytest
from conftest import assert_same_state, log_of, printed_figures
from PIL import Image

import layer
import main_finetune
import main_infer
import main_linprobe
import main_parity
import main_pretrain
import models_sizes
import models_zoo
from demo import score, show_reconstruction, visualize
from util import weights
from util.errors import InputError

COMMON = (
    '--input_size 32 --in_chans 1 --batch_size 10 --num_workers 0 --device cpu --log_dir= '
    '--warmup_epochs 0'
).split()
SWIN, PVT, SIMMIM_SWIN, SIMMIM_PVT, VIT = METHODS = {
    'mae_swin_nano_32': ['--mask_regular', '--vis_mask_ratio', 0.25],
    'mae_pvt_nano_32': ['--mask_regular'],
    'simmim_swin_nano_32': [],
    'simmim_pvt_nano_32': ['--mask_regular'],
    'mae_vit_nano_patch4': ['--mask_regular', '--vis_mask_ratio', 0.25],
}


def run(program, *flags):
    program.main(program.PARSER.parse_args(list(map(str, flags))))


@pytest.fixture(scope='module')
def train(digits, tmp_path_factory):
    """train(program, flags ...) -> (log, folder)."""

    def train(program, *flags):
        out = tmp_path_factory.mktemp('out')
        run(program, *COMMON, '--data_path', digits, '--output_dir', out, *flags)
        return log_of(out), out

    return train


@pytest.fixture(scope='module')
def pretrain(train):
    """pretrain(model, flags ...) -> (log, folder) of two epochs with the flags of METHODS."""

    def pretrain(model, *flags):
        options = '--epochs 2 --lr 2e-3 --save_every_iters 1'.split()
        return train(main_pretrain, '--model', model, *METHODS[model], *options, *flags)

    return functools.cache(pretrain)


@pytest.fixture(scope='module')
def pretrained(pretrain):
    """pretrained(model) -> the checkpoint of the last epoch."""
    return lambda model: pretrain(model)[1] / 'checkpoint-1.pd'


@pytest.fixture(scope='module')
def classify(train, pretrained):
    """classify(program, model, method, flags ...) -> (log, folder) of an epoch."""

    def classify(program, model, method, *flags):
        options = '--global_pool --nb_classes 3 --epochs 1'.split()
        return train(program, *options, '--model', model, '--finetune', pretrained(method), *flags)

    return functools.cache(classify)


def kept_of_cells(noise):
    """How many of 2 x 2 patches the masks [N, 8 x 8] in `noise` keep; None for other noise."""
    noise = np.asarray(noise).reshape(-1, 4, 2, 4, 2)
    return set((noise == 0).sum((2, 4)).flatten()) if set(noise.flatten()) == {0, 1} else None


# pre-training


@pytest.mark.parametrize('model', METHODS)
def test_each_method_learns_and_says_what_it_is(pretrain, pretrained, model):
    first, last = (line['train_loss'] for line in pretrain(model)[0])
    assert last < first
    assert models_zoo.autoencoder_from(str(pretrained(model)))[1]['model'] == model
    bare = weights.read(pretrained(model))['model']
    assert (
        models_sizes.autoencoder_of(bare) == model
        and models_sizes.said_by(bare)['input_size'] == 32
    )


@pytest.mark.parametrize('model', METHODS)
def test_masks_are_uniform_where_they_are_asked_for(train, monkeypatch, model):
    seen = []

    def look(run, *_):
        seen.extend(noise.numpy() for _, noise in run.data.batches(0, 0))
        raise StopIteration

    monkeypatch.setattr(main_pretrain, 'train_one_epoch', look)
    with pytest.raises(StopIteration):
        train(main_pretrain, '--model', model, *METHODS[model])
    masks = np.concatenate(seen)
    assert masks.shape == (30, 64)
    assert kept_of_cells(masks) == ({1} if '--mask_regular' in METHODS[model] else None)
    assert len(np.unique(masks, axis=0)) == 30


@pytest.mark.parametrize('model', [SWIN, VIT])
def test_a_run_with_secondary_masks_resumed_within_an_epoch_ends_as_if_nothing_had_happened(
    pretrain, pretrained, model
):
    log, out = pretrain(model)
    resumed, again = pretrain(model, '--resume', out / 'checkpoint-1-10.pd')
    assert resumed == log[1:]
    assert_same_state(again / 'checkpoint-1.pd', pretrained(model))


@pytest.mark.parametrize('model', [SWIN, SIMMIM_PVT])
def test_recomputing_leaves_every_weight_as_it_is(pretrain, pretrained, monkeypatch, model):
    calls, recompute = [], layer.recompute
    monkeypatch.setattr(
        'layer.recompute', lambda block, *inputs: calls.append(block) or recompute(block, *inputs)
    )
    again = pretrain(model, '--recompute')[1] / 'checkpoint-1.pd'
    assert len(calls) == 6 * {SWIN: 6 + 2, SIMMIM_PVT: 5}[model]
    assert_same_state(again, pretrained(model))


def test_the_fixed_positions_change_training_and_go_with_the_file(pretrain, pretrained):
    fixed, out = pretrain(SWIN, '--fix_um_positions')
    assert [line['train_loss'] for line in fixed] != [
        line['train_loss'] for line in pretrain(SWIN)[0]
    ]
    files = (pretrained(SWIN), out / 'checkpoint-1.pd')
    models = [models_zoo.autoencoder_from(str(file))[0] for file in files]
    assert [model.fix_um_positions for model in models] == [False, True]


@pytest.mark.parametrize('model', METHODS)
def test_the_demos_mask_as_in_training(pretrained, digits, tmp_path, monkeypatch, capsys, model):
    seen = []
    for module in (show_reconstruction, score):

        def spy(model, images, ratio, noise, reconstruct=module.reconstruct):
            seen.append(noise.numpy())
            return reconstruct(model, images, ratio, noise)

        monkeypatch.setattr(module, 'reconstruct', spy)
    out = tmp_path / 'x.png'
    flags = ['--device', 'cpu', '--resume', pretrained(model)]
    run(visualize, *flags, '--img_path', digits / 'val/1', '--out', out)
    with Image.open(out) as shown:
        assert shown.width > 4 * 32
    run(score, *flags, '--data_path', digits)
    rows = capsys.readouterr().out.splitlines()[-3:]
    assert all(0 < float(row.split()[-1]) < 100 for row in rows)
    assert rows[0].startswith('autoencoder')
    assert kept_of_cells(np.concatenate(seen)) == (
        {1} if '--mask_regular' in METHODS[model] else None
    )


# classification

PAIRS = pytest.mark.parametrize(
    'model, method', [('swin_nano_32', SWIN), ('pvt_nano_32', SIMMIM_PVT)]
)
ONE_STEP = '--layer_decay 0.85 --lr 1e-2 --weight_decay 0 --batch_size 30 --drop_path 0'.split()


@PAIRS
def test_fine_tuning_moves_each_block_of_the_pretrained_encoder_by_its_rate(
    classify, pretrained, model, method
):
    begun = weights.read(pretrained(method))['model']
    ended = weights.read(classify(main_finetune, model, method, *ONE_STEP)[1] / 'checkpoint-0.pd')[
        'model'
    ]
    assert ended.keys() - begun.keys() == {
        'head.weight',
        'head.bias',
        'fc_norm.weight',
        'fc_norm.bias',
    }
    layers = {
        'patch_embed.proj.bias': 0,
        **{f'blocks.{i}.mlp.fc2.bias': i + 1 for i in range(len(ended))},
    }
    first_of_a_stage = [name for name in ended if name.endswith('downsample.proj.bias')]
    layers |= {name: int(name.split('.')[1]) + 1 for name in first_of_a_stage}
    layers = {name: number for name, number in layers.items() if name in ended}
    last = {'swin_nano_32': 6, 'pvt_nano_32': 5}[model] + 1
    assert len(first_of_a_stage) == 3 and len(layers) == 1 + 3 + last - 1
    for name, number in layers.items():  # Adam's first step is the rate, except for its epsilon
        assert abs(ended[name] - begun[name]).max() == pytest.approx(
            1e-2 * 0.85 ** (last - number), rel=0.05
        ), name
    assert abs(ended['head.bias']).max() == pytest.approx(1e-2, rel=1e-3)


@PAIRS
def test_evaluation_and_inference_are_those_of_a_count_by_hand(
    classify, digits, capsys, model, method
):
    log, out = classify(main_finetune, model, method, *ONE_STEP)
    network = models_zoo.classifier(model, img_size=32, in_chans=1, num_classes=3)
    network.set_state_dict(weights.read(out / 'checkpoint-0.pd')['model'])
    network.eval()
    files = sorted((digits / 'val').glob('*/*'))
    pictures = [
        np.asarray(Image.open(file).resize((36, 36), Image.BICUBIC).crop((2, 2, 34, 34)))
        for file in files
    ]
    pixels = ((np.stack(pictures)[:, None] / 255 - 0.449) / 0.226).astype('float32')
    scores = dict(zip(files, network(paddle.to_tensor(pixels)).numpy().astype('float64')))
    hits = np.mean([values.argmax() == int(file.parent.name) for file, values in scores.items()])
    losses = [
        np.log(np.exp(values).sum()) - values[int(file.parent.name)]
        for file, values in scores.items()
    ]
    resume = ['--resume', out / 'checkpoint-0.pd']
    flags = f'--model {model} --nb_classes 3 --eval'.split()
    run(main_finetune, *COMMON, *flags, '--data_path', digits, *resume)
    (figures,) = printed_figures(capsys.readouterr().out)
    assert (figures['acc1'], figures['loss']) == pytest.approx(
        (100 * hits, np.mean(losses)), abs=1e-3
    )
    assert log[0]['test_acc1'] == pytest.approx(100 * hits, abs=1e-3)
    run(main_infer, '--device', 'cpu', '--json', *resume, '--img_path', digits / 'val')
    for line in capsys.readouterr().out.splitlines():
        said = json.loads(line)
        values = scores[next(file for file in files if str(file) == json.loads(line)['file'])]
        for label in said['labels']:
            assert label['probability'] == pytest.approx(
                np.exp(values[label['id']]) / np.exp(values).sum(), rel=1e-4
            )


@pytest.mark.parametrize('model, method', [('swin_nano_32', SIMMIM_SWIN), ('pvt_nano_32', PVT)])
def test_a_probe_trains_the_head_alone(classify, pretrained, digits, capsys, model, method):
    log, out = classify(main_linprobe, model, method)
    begun, ended = (
        weights.read(file)['model'] for file in (pretrained(method), out / 'checkpoint-0.pd')
    )
    head = {'head.0._mean', 'head.0._variance', 'head.1.weight', 'head.1.bias'}
    new = {*head, 'fc_norm.weight', 'fc_norm.bias'}
    assert ended.keys() - begun.keys() == new
    assert all(np.array_equal(ended[name], begun[name]) for name in ended.keys() & begun.keys())
    assert ended['head.1.bias'].any() and (ended['head.0._variance'] != 1).all()
    resume = ['--resume', out / 'checkpoint-0.pd']
    flags = f'--model {model} --nb_classes 3 --global_pool --eval'.split()
    run(main_linprobe, *COMMON, *flags, '--data_path', digits, *resume)
    (figures,) = printed_figures(capsys.readouterr().out)
    assert figures['loss'] == pytest.approx(log[0]['test_loss'], abs=1e-4)
    run(main_infer, '--device', 'cpu', *resume, '--img_path', digits / 'val/1')
    assert 'Inference results:' not in capsys.readouterr().err


# errors

PRETRAINING = {
    'size': (SWIN, '--input_size 40', 'image height 40 is no multiple of 16'),
    'window': (
        SIMMIM_SWIN,
        '--input_size 40',
        'windows of 16 x 16 do not divide a map of 40 x 40 (stage 1)',
    ),
    'halves': (SIMMIM_PVT, '--input_size 36', 'image height 36 is no multiple of 8'),
    'ratio': (
        SWIN,
        '--mask_ratio .6',
        '--mask_ratio 0.6: --mask_regular removes three of every 2 x 2 patches: use 0.75',
    ),
    'random': (PVT, None, '--model mae_pvt_nano_32 needs uniform masks; add --mask_regular'),
    'odd': (
        VIT,
        '--input_size 36',
        '--mask_regular needs an even number of patches per side, and there are 9 x 9',
    ),
    'secondary': (
        SIMMIM_SWIN,
        '--vis_mask_ratio .25',
        '--vis_mask_ratio 0.25: SimMIM has no secondary masking',
    ),
    'nothing seen': (
        SWIN,
        '--vis_mask_ratio .99',
        '--vis_mask_ratio 0.99 replaces all 16 kept patches',
    ),
    'positions': (
        VIT,
        '--fix_um_positions',
        '--fix_um_positions: the positions of mae_vit_nano_patch4 are right',
    ),
    'token size': (
        SWIN,
        '--token_size 16',
        '--token_size 16: mae_swin_nano_32 has 8 x 8 patches at --input_size 32',
    ),
    'another model': (
        PVT,
        '--resume {mae_swin_nano_32}',
        '{mae_swin_nano_32} does not fit the model: pos_embed',
    ),
    'no token': (
        SWIN,
        '--vis_mask_ratio 0 --resume {mae_swin_nano_32}',
        'has vis_mask_token, which the model does not have',
    ),
}
CLASSIFYING = {
    'class token': (
        'swin_nano_32',
        '--cls_token',
        '--cls_token: a SwinTransformer has no class token; use --global_pool',
    ),
    'size': (
        'swin_nano_32',
        '--input_size 48',
        'windows of 16 x 16 do not divide a map of 24 x 24 (stage 2)',
    ),
    'Swin into PVT': (
        'pvt_nano_32',
        '--finetune {mae_swin_nano_32}',
        '{mae_swin_nano_32} holds a Swin of UM-MAE, and the '
        'model is a PVT of UM-MAE; choose another model',
    ),
    'PVT into ViT': (
        'vit_nano_patch4',
        '--finetune {mae_pvt_nano_32}',
        'holds a PVT of UM-MAE, and the model is a ViT',
    ),
    'ViT into Swin': (
        'swin_nano_32',
        '--eval --resume {mae_vit_nano_patch4}',
        'holds a ViT, and the model is a Swin',
    ),
    'no classes': (
        'swin_nano_32',
        '--eval --resume {mae_swin_nano_32}',
        'holds a masked autoencoder; a classifier',
    ),
    'narrower': (
        'swin_nano_32',
        '--finetune {narrow}',
        '{narrow} does not fit the model: blocks.0.attn.posmlp.0.weight is '
        '[8, 2, 1, 1] there, [16, 2, 1, 1] here',
    ),
}


@pytest.fixture
def complaint(pretrained, digits, tmp_path):
    """complaint(program, flags ...) -> (the error that it raises, the files by name).

    The flags name files in braces.
    """
    narrow = weights.read(pretrained(SWIN))['model']
    for name, array in narrow.items():
        if '.posmlp.' in name and not name.endswith('2.bias'):
            narrow[name] = array[:, :8] if name.endswith('2.weight') else array[:8]
    paddle.save(narrow, str(tmp_path / 'narrow.pd'))
    files = {'narrow': tmp_path / 'narrow.pd', **{model: pretrained(model) for model in METHODS}}

    def complaint(program, *flags):
        flags = [str(flag).format(**files) for flag in flags]
        given = ['--data_path', digits, '--output_dir', tmp_path / 'out']
        with pytest.raises(InputError) as error:
            run(program, *COMMON, '--epochs', 1, *given, *flags)
        assert '\n' not in str(error.value)
        return str(error.value), files

    return complaint


@pytest.mark.parametrize('model, flags, message', PRETRAINING.values(), ids=PRETRAINING)
def test_what_cannot_be_pretrained_is_named(complaint, model, flags, message):
    said, files = complaint(
        main_pretrain, '--model', model, *(METHODS[model] + flags.split() if flags else [])
    )
    assert message.format(**files) in said


@pytest.mark.parametrize('model, flags, message', CLASSIFYING.values(), ids=CLASSIFYING)
def test_what_cannot_be_classified_is_named(complaint, model, flags, message):
    said, files = complaint(main_finetune, '--model', model, '--nb_classes', 3, *flags.split())
    assert message.format(**files) in said


def test_a_smaller_share_is_not_shown_by_uniform_masking(pretrained, digits):
    with pytest.raises(
        InputError, match='mask ratio 0.5: uniform masking removes three of every 2 x 2 patches'
    ):
        flags = '--mask_ratio 0.5 --device cpu'.split()
        run(visualize, *flags, '--resume', pretrained(SWIN), '--img_path', digits / 'val/1')


@pytest.mark.parametrize(
    'model, what', [(SWIN, 'a Swin of UM-MAE'), (VIT, "a ViT with UM-MAE's secondary masking")]
)
def test_there_is_no_original_to_prove_parity_with(pretrained, model, what):
    with pytest.raises(
        InputError, match=f'holds {what}: there is no package of the original to compare with'
    ):
        run(main_parity, pretrained(model), '--python', '/bin/sh')


def test_parity_of_a_pyramid_is_refused_in_one_line(run_program, pretrained):
    result = run_program('main_parity.py', pretrained(PVT), '--python', '/bin/sh')
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    (error,) = (line for line in result.stderr.splitlines() if 'error' in line)
    assert error.endswith(
        'holds a PVT of UM-MAE: there is no package of the original to compare with'
    )
