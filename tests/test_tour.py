"""A guard against trivial results: pre-training must help where labels are few."""

import statistics

import pytest
from conftest import printed_figures

import main_finetune
import main_pretrain
from demo import make_digits

DATA = '--input_size 16 --in_chans 1 --hflip 0 --num_workers 0 --log_dir= --device cpu'.split()


@pytest.fixture
def digits100(tmp_path):
    """A folder of lists with ten labels of each digit; beside it all scanned digits."""
    make_digits.main(tmp_path / 'digits')
    return tmp_path / 'digits100'


@pytest.fixture
def without_val(digits100):
    """The lists of digits100, but ten pictures to validate on: it is after training that counts."""
    folder = digits100.with_name('without_val')
    folder.mkdir()
    (folder / 'train.txt').write_text((digits100 / 'train.txt').read_text())
    lines = (digits100 / 'val.txt').read_text().splitlines(keepends=True)
    first_of_each = {line.split()[-1]: line for line in reversed(lines)}
    (folder / 'val.txt').write_text(''.join(first_of_each.values()))
    return folder


@pytest.mark.slow
def test_with_100_labels_fine_tuning_beats_training_from_scratch_by_far(
    digits100, without_val, tmp_path, capsys
):
    """The gap is more than two standard deviations over three seeds.

    Pictures have 16 x 16 pixels to save time; demo/run.sh uses 32 x 32.
    """

    def run(program, *flags):
        program.main(program.PARSER.parse_args([*DATA, *map(str, flags)]))

    flags = (
        '--model mae_vit_nano_patch4 --batch_size 64 --epochs 30 --warmup_epochs 2 --blr 8e-3'
    ).split()
    out = tmp_path / 'pretrain'
    run(main_pretrain, *flags, '--data_path', digits100.with_name('digits'), '--output_dir', out)
    model = '--model vit_nano_patch4 --nb_classes 10 --batch_size 20'.split()
    recipe = '--epochs 20 --warmup_epochs 2 --scale 0.6 1 --aa none --reprob 0 --save_every 20'
    begin = {
        'scratch': '--lr 2e-3 --layer_decay 1'.split(),
        'pretrained': [
            *'--lr 3e-3 --layer_decay 0.65 --finetune'.split(),
            out / 'checkpoint-29.pd',
        ],
    }

    def accuracy_of(name, seed):
        out = tmp_path / f'{name}{seed}'
        flags = [*model, *recipe.split(), *begin[name], '--seed', seed, '--output_dir', out]
        run(main_finetune, *flags, '--data_path', without_val)
        capsys.readouterr()
        trained = ['--eval', '--resume', out / 'checkpoint-19.pd']
        run(main_finetune, *model, *trained, '--data_path', digits100)
        (figures,) = printed_figures(capsys.readouterr().out)
        return figures['acc1']

    accuracy = {name: [accuracy_of(name, seed) for seed in range(3)] for name in begin}
    print(accuracy)
    gain = statistics.mean(accuracy['pretrained']) - statistics.mean(accuracy['scratch'])
    assert gain > 2 * max(map(statistics.stdev, accuracy.values())), accuracy
    assert statistics.mean(accuracy['pretrained']) > 60, accuracy
