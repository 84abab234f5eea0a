"""Values of a config file and of --opts: numbers in every form, and values that are no numbers."""

import json

import numpy as np
import pytest
import yaml
from conftest import ROOT
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.deploy.infer import DeployConfig

import seg

# isort: split
import seg.export
import seg.predict
import seg.train
import seg.val
from seg import flags
from util.errors import InputError

TINY = ROOT / 'seg/configs/upernet_mae/upernet_mae_tiny.yml'
FORMS = ['2e-3', '2E-3', '+2e-3', '2.e-3', '.2e-2', '0.2e-2', '20.0e-4', '.002', '+.002', '0.002']


def written(folder, text):
    file = folder / 'config.yml'
    file.write_text(f'_base_: {TINY}\n{text}\n')
    return str(file)


@pytest.mark.parametrize('form', FORMS)
def test_a_number_is_read_in_every_form_that_json_or_python_writes(tmp_path, form):
    said = [
        flags.configuration(written(tmp_path, f'lr_scheduler: {{learning_rate: {form}}}')),
        flags.configuration(str(TINY), [f'lr_scheduler.learning_rate={form}']),
        Config(written(tmp_path, f'lr_scheduler: {{learning_rate: {form}}}')),
    ]
    for config in said:
        assert config.dic['lr_scheduler']['learning_rate'] == 0.002
    schedule = SegBuilder(said[0]).lr_scheduler
    schedule.step(20)  # the end of the warm-up
    assert schedule() == pytest.approx(0.002)


@pytest.mark.parametrize(
    'form, value',
    [
        ('-1e2', -100.0), ('-.5', -0.5), ('1.5e4', 15000.0), ('8', 8), ('"1e-4"', '1e-4'),
        ('e5', 'e5'), ('1e', '1e'), ('1.2.3', '1.2.3'), ('1e-4x', '1e-4x'), ('08', '08'),
        ('v1e5', 'v1e5'), ('-x', '-x'), ('.', '.'),
    ],
)  # fmt: skip
def test_what_is_no_number_stays_text(tmp_path, form, value):
    (tmp_path / 'config.yml').write_text(f'a: {form}')
    found = seg.config.paddleseg_config.parse_from_yaml(str(tmp_path / 'config.yml'))['a']
    assert found == value and type(found) is type(value)


def test_numbers_of_transforms_and_of_an_exported_model_are_read_alike(tmp_path):
    normalize = '{type: Normalize, mean: [5e-1, 5e-1, 5e-1], std: [1e0, .5, .25e0]}'
    text = f'val_dataset: {{transforms: [{normalize}]}}'
    config = flags.configuration(written(tmp_path, text))
    transforms = config.dic['val_dataset']['transforms']
    assert transforms[0]['mean'] == [0.5, 0.5, 0.5] and transforms[0]['std'] == [1.0, 0.5, 0.25]
    text = text.replace('val_dataset: {', 'Deploy: {model: a, params: b, ')
    (tmp_path / 'deploy.yaml').write_text(text)
    (normalize,) = DeployConfig(str(tmp_path / 'deploy.yaml')).transforms.transforms
    assert list(np.ravel(normalize.std)) == [1.0, 0.5, 0.25]


def test_whole_numbers_may_have_an_exponent(tmp_path):
    config = flags.configuration(written(tmp_path, 'iters: 1.6e5\nbatch_size: 2e0'))
    assert (config.iters, config.batch_size) == (160000, 2)
    assert type(config.iters) is type(config.batch_size) is int
    with pytest.raises(InputError, match='iters is a whole number from 1, not 2.5'):
        flags.configuration(str(TINY), ['iters=25e-1'])


@pytest.mark.parametrize(
    'text, value',
    [
        ('/data/fold=3/x', '/data/fold=3/x'), ('a==b=', 'a==b='), ('=', '='), ('', ''),
        ('true', True), ('false', False), ('null', None), ('None', None), ('[1e-4,2]', [1e-4, 2]),
        ('0.5,1e0', (0.5, 1.0)), ('1:30', '1:30'), ("'a=b'", 'a=b'), ('2020-01-01', '2020-01-01'),
        ('a: b', 'a: b'), ('[', '['),
    ],
)  # fmt: skip
def test_a_value_of_opts_may_hold_anything(text, value):
    config = flags.configuration(str(TINY), [f'val_dataset.dataset_root={text}'])
    found = config.dic['val_dataset']['dataset_root']
    assert found == value and type(found) is type(value)


WRONG = {
    'lr_scheduler.learning_rate=1e-4x': "lr_scheduler.learning_rate is '1e-4x'; a number is needed",
    'lr_scheduler.learning_rate=[1e-4]': r'lr_scheduler.learning_rate is \[0.0001\]; a number',
    'lr_scheduler.warmup_start_lr=true': 'lr_scheduler.warmup_start_lr is True; a number',
    'lr_scheduler.power=one': "lr_scheduler.power is 'one'; a number",
    'optimizer.weight_decay=5%': "optimizer.weight_decay is '5%'; a number",
    'optimizer.beta1=0,9x': "optimizer.beta1 is '0,9x'; a number",
    'model.backbone.drop_path_rate=1/10': "model.backbone.drop_path_rate is '1/10'; a number",
    'model.num_classes=many': "model.num_classes is 'many'; a number",
    'loss.coef=[1,"0.4"]': r"loss.coef\[1\] is '0.4'; a number",
    'train_dataset.transforms=[{"type":"RandomResize","ratio_range":[0.5,"2"]}]':
        r"train_dataset.transforms\[0\].ratio_range\[1\] is '2'; a number",
    'val_dataset.transforms=[{"type":"Normalize","mean":"x"}]':
        r"val_dataset.transforms\[0\].mean is 'x'; a number",
    'lr_scheduler': '--opts lr_scheduler: expected KEY=VALUE',
    '=3': '--opts =3: expected KEY=VALUE',
    'optimiser.beta1=0.9':
        '--opts optimiser.beta1=0.9: the config has no optimiser that holds keys',
    'iters.most=3': '--opts iters.most=3: the config has no iters that holds keys',
}  # fmt: skip


@pytest.mark.parametrize('item', WRONG)
def test_a_wrong_value_is_named_with_its_key(item):
    with pytest.raises(InputError, match=f'^{TINY}: {WRONG[item]}') as caught:
        flags.configuration(str(TINY), [item])
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('program', ['train', 'val', 'predict', 'export'])
def test_every_program_names_a_text_in_a_file(tmp_path, program):
    file = written(tmp_path, "lr_scheduler: {learning_rate: '3e-4'}")
    asked = ['--config', file, '--device', 'cpu', '--save_dir', str(tmp_path / 'out')]
    if program == 'val':
        asked = asked[:-2]
    if program == 'predict':
        picture = tmp_path / 'a.png'
        picture.touch()
        asked += ['--image_path', str(picture)]
    parser, main = getattr(seg, program).PARSER, getattr(seg, program).main
    with pytest.raises(InputError, match="lr_scheduler.learning_rate is '3e-4'; a number"):
        main(parser.parse_args(asked))


@pytest.mark.parametrize(
    'file', sorted((ROOT / 'seg/configs').glob('*/*.yml')), ids=lambda f: f.stem
)
def test_the_configs_that_are_shipped_read_as_yaml_1_1_reads_them(file):
    loaded = yaml.safe_load(file.read_text())
    ours = seg.config.yaml.load(file.read_text(), Loader=seg.config.Loader)
    assert json.dumps(ours) == json.dumps(loaded)
