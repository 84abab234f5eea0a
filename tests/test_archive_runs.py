"""Whole runs on archives: the same weights as on the folder that holds the same pictures."""

import time

import numpy as np
import pyarrow as pa
import pytest
import toy_archives
from pyarrow import parquet
from test_processes import assert_same_run, run, start

import main_finetune
import main_infer
import main_linprobe
import main_pretrain
from util import weights
from util.errors import InputError

PRETRAIN = (
    '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --device cpu --log_dir= '
    '--batch_size 10 --epochs 1 --warmup_epochs 0 --blr 0.05'
).split()
CLASSIFY = (
    '--model vit_nano_patch4 --input_size 16 --in_chans 1 --device cpu --log_dir= --batch_size 10 '
    '--nb_classes 3 --epochs 1 --warmup_epochs 0 --blr 0.05'
).split()
LAYOUTS = ('imagenet', 'shards', 'parquet')
WORKERS = {'folder': 0, 'imagenet': 2, 'shards': 1, 'parquet': 2}


@pytest.fixture(scope='module')
def layouts(tmp_path_factory):
    """The folder of each layout, by its name."""
    root = tmp_path_factory.mktemp('layouts')
    folders = toy_archives.folders(root / 'folder')
    toy_archives.imagenet(folders, root / 'imagenet')
    toy_archives.shards(folders, root / 'shards')
    toy_archives.hugging_face(folders, root / 'parquet')
    return root


def train(program, flags, layouts, layout, out):
    """The weights and the log after a training within this process."""
    flags = [*flags, '--num_workers', str(WORKERS[layout]), '--index_dir', str(out / 'indexes')]
    flags += ['--data_path', str(layouts / layout), '--output_dir', str(out)]
    program.main(program.PARSER.parse_args(flags))
    [file] = out.glob('checkpoint-0.pd')
    return weights.read(file)['model'], (out / 'log.txt').read_text()


@pytest.mark.parametrize(
    'program, flags',
    [
        (main_pretrain, PRETRAIN),
        pytest.param(main_finetune, CLASSIFY, marks=pytest.mark.slow),
        pytest.param(main_linprobe, CLASSIFY, marks=pytest.mark.slow),
    ],
)
def test_a_training_gives_the_same_weights_on_every_layout(layouts, tmp_path, program, flags):
    expected, log = train(program, flags, layouts, 'folder', tmp_path / 'folder')
    for layout in LAYOUTS:
        found, its_log = train(program, flags, layouts, layout, tmp_path / layout)
        assert its_log == log
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor, err_msg=f'{layout} {name}')
        assert not list((layouts / layout).rglob('*.index.json'))


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_give_the_same_weights_on_every_layout(layouts, tmp_path):
    flags = ['--batch_size', 5]
    for layout in ('folder', *LAYOUTS):
        code, output = run(layouts / layout, tmp_path / layout, *flags, processes=2, workers=1)
        assert code == 0, output
        assert_same_run(tmp_path / layout, tmp_path / 'folder')


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    'shuffle, places', [('full', ('shards', 'imagenet', 'folder')), ('window', ('shards',) * 3)]
)
def test_a_killed_run_resumes_within_an_epoch_on_any_layout(layouts, tmp_path, shuffle, places):
    flags = ['--batch_size', 5, '--epochs', 4, '--save_every_iters', 1, '--keep', 2]
    flags += ['--shuffle', shuffle, '--window', 2]
    code, output = run(layouts / places[-1], tmp_path / 'straight', *flags)
    assert code == 0, output
    flags += ['--resume', 'auto']
    for kill, place in enumerate(places[:2]):
        process = start(layouts / place, tmp_path / 'out', *flags, workers=kill)
        saved = set((tmp_path / 'out').glob('checkpoint-*.pd'))
        while set((tmp_path / 'out').glob('checkpoint-*.pd')) <= saved:
            time.sleep(0.01)
            assert process.poll() is None, f'kill {kill} came too late'
        process.kill()
        process.communicate()
    code, output = run(layouts / places[-1], tmp_path / 'out', *flags)
    assert code == 0 and 'checkpoint-' in output, output
    assert_same_run(tmp_path / 'out', tmp_path / 'straight', last=3)


@pytest.mark.slow
@pytest.mark.processes
def test_the_order_of_windows_is_the_same_for_one_and_two_processes(layouts, tmp_path):
    flags = ['--shuffle', 'window', '--window', 2, '--window_parts', 2, '--epochs', 1]
    for processes, batch_size in ((1, 10), (2, 5)):
        code, output = run(
            layouts / 'shards',
            tmp_path / str(processes),
            *flags,
            '--batch_size',
            batch_size,
            processes=processes,
        )
        assert code == 0, output
    one, two = (weights.read(tmp_path / name / 'checkpoint-0.pd')['model'] for name in '12')
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, atol=2e-4, err_msg=name)


@pytest.mark.parametrize('workers', [0, 1])
def test_inference_names_the_row_of_parquet_that_has_no_picture(
    layouts, classify, tmp_path, workers
):
    data = next((layouts / 'folder/val').rglob('*.png')).read_bytes()
    column = pa.array([data, None], pa.binary())
    parquet.write_table(pa.table({'image': column}), tmp_path / 'x.parquet')
    out = classify(main_finetune)[1]
    flags = ['--resume', out / 'checkpoint-1.pd', '--img_path', tmp_path / 'x.parquet']
    flags += ['--device', 'cpu', '--batch_size', 1, '--num_workers', workers]
    with pytest.raises(InputError, match=r'x.parquet/row 1 cannot be read as a picture .*no bytes'):
        main_infer.main(main_infer.PARSER.parse_args(list(map(str, flags))))


def test_inference_labels_the_pictures_of_an_archive(layouts, classify, capsys):
    out = classify(main_finetune)[1]
    capsys.readouterr()
    shown = []
    for path in ('folder', 'shards/val-{0000..0001}.tar', 'imagenet/ILSVRC2012_img_val.tar'):
        place = layouts / path / 'val' if path == 'folder' else layouts / path
        flags = ['--resume', out / 'checkpoint-1.pd', '--img_path', place, '--json']
        main_infer.main(main_infer.PARSER.parse_args(list(map(str, [*flags, '--device', 'cpu']))))
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 10
        shown.append(sorted(line.split('"labels"')[1] for line in lines))
    assert shown[0] == shown[1] == shown[2]
