"""A guard against trivial results: pre-training must help where labels are few."""

import json
import statistics

import pytest

DATA = '--input_size 16 --in_chans 1 --hflip 0 --num_workers 0 --log_dir= --device cpu'.split()


@pytest.fixture
def digits100(run_program, tmp_path):
    """A folder of lists with ten labels of each digit; beside it all scanned digits."""
    assert run_program('demo/make_digits.py', '--out', tmp_path / 'digits').returncode == 0
    return tmp_path / 'digits100'


@pytest.mark.slow
def test_with_100_labels_fine_tuning_beats_training_from_scratch_by_far(
    run_program, digits100, tmp_path
):
    """The gap is more than two standard deviations over three seeds.

    Pictures have 16 x 16 pixels to save time; demo/run.sh uses 32 x 32.
    """

    def train(program, out, *flags):
        result = run_program(program, *DATA, '--output_dir', tmp_path / out, *flags)
        assert result.returncode == 0, result.stderr
        return json.loads((tmp_path / out / 'log.txt').read_text().splitlines()[-1])

    flags = (
        '--model mae_vit_nano_patch4 --batch_size 64 --epochs 30 --warmup_epochs 2 --blr 8e-3'
    ).split()
    train('main_pretrain.py', 'pretrain', *flags, '--data_path', digits100.with_name('digits'))
    recipe = (
        '--model vit_nano_patch4 --nb_classes 10 --batch_size 20 --epochs 20 --warmup_epochs 2 '
        '--scale 0.6 1 --aa none --reprob 0 --save_every 20'
    ).split()
    recipe += ['--data_path', digits100]
    encoder = tmp_path / 'pretrain/checkpoint-29.pd'
    begin = {
        'scratch': '--lr 2e-3 --layer_decay 1'.split(),
        'pretrained': [*'--lr 3e-3 --layer_decay 0.65'.split(), '--finetune', encoder],
    }
    accuracy = {
        name: [
            train('main_finetune.py', f'{name}{seed}', *recipe, *flags, '--seed', seed)['test_acc1']
            for seed in range(3)
        ]
        for name, flags in begin.items()
    }
    print(accuracy)
    gain = statistics.mean(accuracy['pretrained']) - statistics.mean(accuracy['scratch'])
    assert gain > 2 * max(map(statistics.stdev, accuracy.values())), accuracy
    assert statistics.mean(accuracy['pretrained']) > 60, accuracy
