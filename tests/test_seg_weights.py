"""Weights of any code base in a segmentor, or in its backbone, and the messages about them."""

import numpy as np
import paddle
import pytest

import models_zoo
from seg import weights
from seg.backbone import MAEViT
from seg.model import UPerNetMAE
from util import convert, pos_embed
from util.convert import names
from util.errors import InputError
from util.weights import paddle_file, torch_file


def backbone(side=32, width=24, **kwargs):
    return MAEViT(
        side, 8, embed_dim=width, depth=2, num_heads=3, out_indices=[0, 0, 1, 1], **kwargs
    )


def segmentor(classes=5, **kwargs):
    return UPerNetMAE(classes, backbone(), channels=4, aux_channels=2, **kwargs)


@pytest.fixture
def encoder_files(models):
    return [
        models / name
        for name in (
            'official_encoder.pth',
            'official_autoencoder.pth',
            'hf_autoencoder',
            'mmpretrain_pooled.pth',
            'mae_mmcls.pth',
            'timm_token.safetensors',
        )
    ]


def test_a_backbone_begins_from_encoders_of_any_code_base(encoder_files, official, capsys):
    tensors = official(names.ENCODER)['model']
    for file in encoder_files:
        layer = backbone(pretrained=str(file))
        own = layer.state_dict()
        for name in (
            'cls_token',
            'pos_embed',
            'patch_embed.proj.weight',
            'blocks.1.attn.qkv.weight',
            'blocks.0.norm2.bias',
        ):
            np.testing.assert_array_equal(own[name].numpy(), tensors[name], err_msg=str(file))
        assert (own['blocks.0.gamma_1'].numpy() == 1).all()
        assert (own['position_bias.0.table'].numpy() == 0).all()
        said = capsys.readouterr().out
        assert 'copied: 28 of 34 tensors' in said
        first = 'blocks.0.gamma_1, blocks.0.gamma_2, blocks.1.gamma_1, blocks.1.gamma_2'
        assert f'fresh: {first} and 2 more' in said


def test_positions_are_interpolated_and_that_is_said(models, official, capsys):
    layer = backbone(side=48, pretrained=str(models / 'official_encoder.pth'))
    expected = pos_embed.interpolate(official(names.ENCODER)['model']['pos_embed'], (6, 6))
    np.testing.assert_array_equal(layer.pos_embed.numpy(), expected)
    assert 'resized: pos_embed 16 to 36 patches' in capsys.readouterr().out


def test_a_segmentor_is_loaded_whole_from_mmsegmentation_and_from_paddleseg(
    models, official, tmp_path
):
    model, tensors = segmentor(), official(names.SEGMENTOR)['model']
    weights.assign_from(model, str(models / 'mmseg_upernet.pth'))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[name])
    # as PaddleSeg's trainer saves
    paddle.save(model.state_dict(), str(tmp_path / 'model.pdparams'))
    again = segmentor()
    weights.assign_from(again, str(tmp_path / 'model.pdparams'))
    x = paddle.randn([1, 3, 32, 32])
    model.eval(), again.eval()
    np.testing.assert_array_equal(model(x)[0].numpy(), again(x)[0].numpy())


def test_a_segmentor_begins_from_one_of_other_classes(models, official, capsys):
    model = segmentor(classes=3, pretrained=str(models / 'mmseg_upernet.pth'))
    own, tensors = model.state_dict(), official(names.SEGMENTOR)['model']
    np.testing.assert_array_equal(
        own['decode_head.bottleneck.conv.weight'].numpy(),
        tensors['decode_head.bottleneck.conv.weight'],
    )
    assert own['decode_head.conv_seg.weight'].shape[0] == 3
    assert 'copied: 109 of 113' in capsys.readouterr().out


def test_a_segmentor_gives_its_encoder_to_a_backbone(models, official):
    layer = backbone(pretrained=str(models / 'mmseg_upernet.pth'))
    tensors = official(names.SEGMENTOR)['model']
    for name, tensor in layer.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[f'backbone.{name}'])


def test_a_segmentor_begins_from_an_encoder(models, official):
    model = segmentor(pretrained=str(models / 'official_encoder.pth'))
    np.testing.assert_array_equal(
        model.backbone.cls_token.numpy(), official(names.ENCODER)['model']['cls_token']
    )


def test_what_does_not_fit_is_named(models, tmp_path):
    encoder, whole = str(models / 'official_encoder.pth'), str(models / 'mmseg_upernet.pth')
    with pytest.raises(
        InputError, match='official_encoder.pth holds an encoder; a segmentor .* is needed here'
    ):
        weights.assign_from(segmentor(), encoder)
    with pytest.raises(
        InputError,
        match='does not fit the model: cls_token is \\[1, 1, 24\\] there, \\[1, 1, 48\\] here',
    ):
        backbone(width=48, pretrained=encoder)
    with pytest.raises(InputError, match='does not fit the model: decode_head.conv_seg.weight is'):
        weights.assign_from(segmentor(classes=3), whole)
    with pytest.raises(
        InputError, match='position_bias.0.table is \\[52, 3\\] there, \\[124, 3\\] here'
    ):
        backbone(side=48, pretrained=whole)
    paddle.save({'backbone.conv1.weight': paddle.ones([3])}, str(tmp_path / 'other.pdparams'))
    with pytest.raises(
        InputError, match='holds no model known here; its keys begin with backbone.conv1.weight'
    ):
        models_zoo.start_from(segmentor(), str(tmp_path / 'other.pdparams'))


def test_mmsegmentation_gets_a_file_as_it_writes_them(models, official, tmp_path):
    report = convert.write(tmp_path / 'x.pth', official(names.SEGMENTOR), 'mmseg')
    theirs, ours = (
        torch_file.read(file)['state_dict']
        for file in (models / 'mmseg_upernet.pth', tmp_path / 'x.pth')
    )
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array)
    assert len(report.made) == 14 + 2


@pytest.mark.parametrize(
    'plain, average', [('model', 'model_ema'), ('state_dict', 'state_dict_ema')]
)
def test_an_average_is_taken_where_it_is_asked_for(official, tmp_path, capsys, plain, average):
    encoder = official(names.ENCODER)['model']
    torch_file.write(
        tmp_path / 'encoder.pth',
        {plain: encoder, average: {name: 2 * array for name, array in encoder.items()}},
    )
    whole = {name: value.numpy() for name, value in segmentor().state_dict().items()}
    paddle_file.write(
        tmp_path / 'whole.pdparams',
        {plain: whole, average: {name: array + 1 for name, array in whole.items()}},
    )
    for use_ema, taken in ((False, plain), (True, average)):
        said = f"'{taken}' is taken"
        layer = backbone(pretrained=str(tmp_path / 'encoder.pth'), pretrained_ema=use_ema)
        expected = encoder['blocks.1.attn.qkv.bias'] * (2 if use_ema else 1)
        np.testing.assert_array_equal(layer.blocks[1].attn.qkv.bias.numpy(), expected)
        assert said in capsys.readouterr().err

        expected = whole['decode_head.conv_seg.weight'] + use_ema
        file = str(tmp_path / 'whole.pdparams')
        begun = segmentor(pretrained=file, pretrained_ema=use_ema)
        np.testing.assert_array_equal(begun.decode_head.conv_seg.weight.numpy(), expected)
        assert said in capsys.readouterr().err
        assigned = segmentor()
        weights.assign_from(assigned, file, use_ema)
        np.testing.assert_array_equal(assigned.decode_head.conv_seg.weight.numpy(), expected)
        assert said in capsys.readouterr().err
