"""Pre-training goes on from a file: whole, or of another size, decoder or number of channels."""

import numpy as np
import paddle
import pytest
from conftest import slow

import main_pretrain
import models_zoo
from util import weights
from util.errors import InputError
from util.weights import paddle_file

TINY = (
    '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --batch_size 10 --epochs 1 '
    '--warmup_epochs 0 --lr 0 --num_workers 0 --device cpu --log_dir='
).split()


@pytest.fixture
def pretrain(digits, encoder, tmp_path, capsys):
    """pretrain('--flag', value, ...) -> the weights after an epoch at rate 0, what was printed."""

    def pretrain(*flags):
        flags = [*TINY, '--data_path', digits, '--output_dir', tmp_path / 'out', *flags]
        main_pretrain.main(main_pretrain.PARSER.parse_args(list(map(str, flags))))
        return weights.read(tmp_path / 'out/checkpoint-0.pd')['model'], capsys.readouterr().out

    return pretrain


@pytest.mark.parametrize('flag', ['--start_from', '--load_from'])
def test_a_whole_autoencoder_is_taken_bit_by_bit(pretrain, encoder, flag):
    begun, said = pretrain(flag, encoder, '--seed', 5)
    theirs = weights.read(encoder)['model']
    assert all(np.array_equal(begun[name], array) for name, array in theirs.items())
    assert f'copied: {len(begun)} of {len(begun)} tensors' in said and 'fresh' not in said


def test_an_encoder_gets_a_decoder_and_positions_of_the_new_size(pretrain, encoder, tmp_path):
    theirs = weights.read(encoder)['model']
    alone = {
        name: array
        for name, array in theirs.items()
        if not name.startswith(('decoder', 'mask_token'))
    }
    paddle_file.write(tmp_path / 'encoder.pd', {'model': alone})
    flags = ['--start_from', tmp_path / 'encoder.pd', '--input_size', 32]
    begun, said = pretrain(*flags)
    fresh, _ = pretrain('--input_size', 32)
    for name, array in fresh.items():
        if name in alone and name != 'pos_embed':
            array = alone[name]
        if name != 'pos_embed':
            np.testing.assert_array_equal(begun[name], array, err_msg=name)
    assert 'pos_embed 16 to 64 patches' in said and 'adapted' not in said
    new, old = begun['pos_embed'][0, 1:], theirs['pos_embed'][0, 1:]
    # an average over 2 x 2 is the middle of a patch of the old grid
    middles = new.reshape(4, 2, 4, 2, 96).mean((1, 3))
    assert np.corrcoef(middles.ravel(), old.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    'model, size', [('_dec64d1b', 16), slow('_dec64d4b', 32), ('_dec64d2b', 32)]
)
def test_another_decoder_begins_fresh_and_that_is_said(pretrain, encoder, model, size):
    flags = ['--model', f'mae_vit_nano_patch4{model}', '--input_size', size]
    begun, said = pretrain(*flags, '--start_from', encoder)
    fresh, _ = pretrain(*flags)
    theirs = weights.read(encoder)['model']
    same = model == '_dec64d2b'
    assert ('adapted: a decoder of another size begins fresh' in said) == (not same)
    for name, array in fresh.items():
        if name.endswith('pos_embed'):
            continue
        is_decoder = name.startswith(('decoder', 'mask_token'))
        expected = array if is_decoder and not same else theirs[name]
        np.testing.assert_array_equal(begun[name], expected, err_msg=name)


def autoencoder(name, channels):
    paddle.seed(channels)
    model = models_zoo.autoencoder(name, in_chans=channels)
    for parameter in model.parameters():
        noise = 0.02 * paddle.randn(parameter.shape)
        parameter.set_value(parameter + noise)
    model.eval()
    return model


@pytest.mark.parametrize('theirs, ours', [(1, 3), (3, 1), (3, 5), (4, 2)])
@pytest.mark.parametrize(
    'name',
    ['mae_vit_nano_patch4', 'mae_swin_nano_32', slow('mae_pvt_nano_32'), 'simmim_swin_nano_32'],
)
def test_other_channels_answer_a_grey_image_as_before(tmp_path, name, theirs, ours):
    """Prediction: each channel is one of the file's in turn, or the average of them."""
    before, after = autoencoder(name, theirs), autoencoder(name, ours)
    paddle.save({'model': before.state_dict()}, str(tmp_path / 'x.pd'))
    start = models_zoo.start_from(after, str(tmp_path / 'x.pd'))
    change = f'{"averaged" if ours < theirs else "repeated"} from {theirs} to {ours} channels'
    assert start.adapted == [
        f'patch_embed.proj.weight {change}',
        f'decoder_pred.weight {change}',
        f'decoder_pred.bias {change}',
    ]
    grey, noise = paddle.randn([2, 1, 32, 32]), paddle.rand([2, before.num_patches])
    predictions = []
    for model, channels in ((before, theirs), (after, ours)):
        with paddle.no_grad():
            predicted = model(grey.expand([2, channels, 32, 32]), 0.75, noise)[1]
        predictions.append(predicted.reshape([2, model.num_patches, -1, channels]).numpy())
    there, here = predictions
    expected = there[..., np.arange(ours) % theirs]
    if ours < theirs:
        expected = there.mean(-1, keepdims=True).repeat(ours, -1)
    np.testing.assert_allclose(here, expected, atol=1e-5 * np.abs(expected).max())


def test_a_classifier_takes_other_channels_as_well(encoder):
    model = models_zoo.classifier('vit_nano_patch4', img_size=16, in_chans=3, num_classes=2)
    start = models_zoo.start_from(model, str(encoder))
    grey = weights.read(encoder)['model']['patch_embed.proj.weight']
    np.testing.assert_allclose(model.patch_embed.proj.weight[:, 1:2], grey / 3, rtol=1e-6)
    assert 'adapted: patch_embed.proj.weight repeated from 1 to 3 channels' in str(start)


def test_what_cannot_begin_is_one_line(pretrain, encoder, classify):
    import main_finetune

    tuned = classify(main_finetune)[1] / 'checkpoint-latest.pd'
    with pytest.raises(InputError, match="lacks 2 of the model's tensors: norm.bias, norm.weight"):
        pretrain('--start_from', tuned)
    with pytest.raises(InputError, match='has patches of 4 x 4 pixels, and the model of 8 x 8'):
        pretrain('--start_from', encoder, '--model', 'mae_vit_nano_patch8')
    with pytest.raises(InputError, match='--use_ema: .* holds no average'):
        pretrain('--start_from', encoder, '--use_ema')
