"""The configs have the published recipe's numbers, and PaddleSeg builds models from them."""

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddleseg.cvlibs import Config, SegBuilder
from test_seg_dataset import write_scene

import seg  # noqa: F401

CONFIGS = ROOT / 'seg/configs/upernet_mae'
BASE = CONFIGS / 'upernet_mae_base_ade20k_512x512_160k.yml'


def test_the_base_config_has_the_published_numbers():
    said = Config(str(BASE)).dic
    assert said['model'] == {
        'type': 'UPerNetMAE',
        'num_classes': 150,
        'channels': 768,
        'aux_channels': 256,
        'dropout_ratio': 0.1,
        'pretrained': None,
        'backbone': {
            'type': 'MAEViT',
            'img_size': 512,
            'patch_size': 16,
            'in_channels': 3,
            'embed_dim': 768,
            'depth': 12,
            'num_heads': 12,
            'drop_path_rate': 0.1,
            'init_values': 1.0,
            'out_indices': [3, 5, 7, 11],
            'pretrained': None,
        },
    }
    assert said['test_config'] == {'is_slide': True, 'crop_size': [512, 512], 'stride': [341, 341]}
    assert said['val_dataset']['transforms'] == [
        {'type': 'ResizeKeepRatio', 'scale': [2048, 512]},
        {'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
    ]
    assert said['train_dataset']['transforms'] == [
        {'type': 'RandomResize', 'scale': [2048, 512], 'ratio_range': [0.5, 2.0]},
        {
            'type': 'RandomCropWithCategoryLimit',
            'crop_size': [512, 512],
            'category_max_ratio': 0.75,
        },
        {'type': 'RandomHorizontalFlip', 'prob': 0.5},
        {
            'type': 'PhotoMetricDistortion',
            'brightness_delta': 32,
            'contrast_range': [0.5, 1.5],
            'saturation_range': [0.5, 1.5],
            'hue_delta': 18,
        },
        {'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
        {
            'type': 'Padding',
            'target_size': [512, 512],
            'im_padding_value': 0,
            'label_padding_value': 255,
        },
    ]
    assert said['batch_size'] == 2 and said['iters'] == 160000
    assert said['loss']['coef'] == [1, 0.4] and said['loss']['types'][0]['ignore_index'] == 255
    optimizer, schedule = said['optimizer'], said['lr_scheduler']
    assert optimizer == {
        'type': 'LayerDecayAdamW',
        'layer_decay': 0.65,
        'beta1': 0.9,
        'beta2': 0.999,
        'weight_decay': 0.05,
    }
    assert schedule == {
        'type': 'PolynomialDecay',
        'learning_rate': 1e-4,
        'end_lr': 0.0,
        'power': 1.0,
        'warmup_iters': 1500,
        'warmup_start_lr': 1e-6 * 1e-4,
    }


def test_the_schedule_warms_up_and_falls_to_0():
    schedule, rates = SegBuilder(Config(str(BASE))).lr_scheduler, []
    for step in (0, 750, 1500, 80750, 160000):
        schedule.step(step)
        rates.append(schedule())
    np.testing.assert_allclose(rates, [1e-10, 5e-5, 1e-4, 5e-5, 0], rtol=1e-3, atol=1e-12)


def test_the_multi_scale_config_differs_in_the_test_alone():
    base, scaled = Config(str(BASE)).dic, Config(str(BASE.with_name(BASE.stem + '_ms.yml'))).dic
    assert scaled.pop('test_config') == base.pop('test_config') | {
        'aug_eval': True,
        'scales': [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
        'flip_horizontal': True,
    }
    assert scaled == base


def test_the_large_config_is_vit_l():
    config = Config(str(CONFIGS / 'upernet_mae_large_ade20k_512x512_160k.yml'))
    said = config.dic['model']['backbone']
    assert (said['embed_dim'], said['depth'], said['num_heads']) == (1024, 24, 16)
    assert said['out_indices'] == [7, 11, 15, 23]


@pytest.mark.parametrize('file', sorted(CONFIGS.glob('*.yml')), ids=lambda file: file.stem)
def test_paddleseg_builds_the_data_and_the_loss_of_every_config(file, tmp_path):
    tiny = file.stem.endswith(('_tiny', '_scenes'))
    write_scene(tmp_path, classes=4 if file.stem.endswith('_scenes') else 150)
    builder = SegBuilder(
        Config(
            str(file), opts=[f'{part}_dataset.dataset_root={tmp_path}' for part in ('train', 'val')]
        )
    )
    assert len(builder.train_dataset) == len(builder.val_dataset) == 3
    assert len(builder.loss['types']) == len(builder.loss['coef']) == 2
    window = 32 if tiny else 512
    assert min(builder.val_dataset[0]['img'].shape[1:]) == window
    for sample in (builder.train_dataset[i] for i in range(3)):
        assert sample['img'].shape == (3, window, window)
        assert sample['label'].shape == (window, window)


def test_the_tiny_model_is_built_and_takes_its_windows():
    builder = SegBuilder(Config(str(CONFIGS / 'upernet_mae_tiny.yml')))
    window = builder.config.test_config['crop_size']
    builder.model.eval()
    (scores,) = builder.model(paddle.zeros([1, 3, *window]))
    assert scores.shape == [1, 150, *window]
