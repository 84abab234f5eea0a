"""A disk that is full, and a folder that closes, while a checkpoint is written."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, assert_same_state

import main_pretrain
from faults.harness import Run
from util import atomic, weights
from util.errors import InputError
from util.weights import paddle_file, safetensors_file, torch_file

TINY = (
    '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --num_workers 0 --batch_size 10 '
    '--warmup_epochs 1 --device cpu --log_dir= --save_every 1'
).split()
MOUNT = (
    'mount -t tmpfs -o size=18m none "$0" && '
    '{ "$@"; code=$?; cp -a "$0/." "$0.after"; exit $code; }'
)


@pytest.fixture
def small_disk():
    """A prefix that gives a command a disk of 18 MB in a folder.

    At the command's end the folder is copied to FOLDER.after.
    """
    prefix = ['unshare', '--map-root-user', '--mount', 'bash', '-c', MOUNT]
    if (
        shutil.which('unshare') is None
        or subprocess.run([*prefix[:3], 'true'], capture_output=True).returncode
    ):
        pytest.skip('needs the right to mount a file system of its own')
    return prefix


def refused(prefix, program, *flags):
    """The one line of the error with which a program ends, started behind a prefix."""
    result = subprocess.run(
        list(map(str, [*prefix, sys.executable, ROOT / program, *flags])),
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert result.returncode == 2, result.stdout + result.stderr
    (error,) = (line for line in result.stderr.splitlines() if 'error' in line)
    return error


@pytest.mark.processes
def test_a_full_disk_leaves_the_checkpoints_and_ends_the_run_with_one_line(
    digits, tmp_path, small_disk, tally
):
    """Two checkpoints of 7.6 MB fit."""
    out, flags = tmp_path / 'out', [*TINY, '--data_path', digits, '--epochs', 4]
    out.mkdir()
    (tmp_path / 'out.after').mkdir()
    with tally('a full disk'):
        error = refused([*small_disk, out], 'main_pretrain.py', *flags, '--output_dir', out)
        assert (
            'checkpoint-2.pd cannot be written (No space left on device)' in error
            and '--resume auto' in error
        )
        out.rmdir()
        (tmp_path / 'out.after').rename(out)
        left = sorted(path.name for path in out.iterdir())
        assert left == ['checkpoint-0.pd', 'checkpoint-1.pd', 'log.txt']
        for extra, folder in ((['--resume', 'auto'], out), ([], tmp_path / 'straight')):
            flags_now = [*flags, '--output_dir', folder, *extra]
            main_pretrain.main(main_pretrain.PARSER.parse_args(list(map(str, flags_now))))
        assert_same_state(out / 'checkpoint-3.pd', tmp_path / 'straight/checkpoint-3.pd')
        assert (out / 'log.txt').read_text() == (tmp_path / 'straight/log.txt').read_text()


@pytest.mark.processes
@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoints_of_a_segmentation(config, tmp_path, small_disk, tally):
    """Two folders of 8 MB fit."""
    out = tmp_path / 'out'
    out.mkdir()
    (tmp_path / 'out.after').mkdir()
    flags = ['--config', config(), *'--iters 4 --save_interval 1 --device cpu'.split()]
    with tally('a full disk, seg/train.py'):
        error = refused([*small_disk, out], 'seg/train.py', *flags, '--save_dir', out)
        assert f'{out}/iter_3/' in error
        assert 'cannot be written (No space left on device)' in error
        assert '--resume_model auto' in error
        left = sorted(path.name for path in (tmp_path / 'out.after').iterdir())
        assert left == ['iter_1', 'iter_2']
        files = list((tmp_path / 'out.after').glob('*/*'))
        assert len(files) == 6
        for file in files:
            weights.read(file)


@pytest.mark.processes
@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoints_of_a_detection(detection, tmp_path, small_disk, tally):
    """Nine checkpoints of 1.9 MB fit."""
    out = tmp_path / 'out'
    out.mkdir()
    (tmp_path / 'out.after').mkdir()
    flags = ['-c', detection, *'--keep 0 --device cpu -o epoch=12'.split(), f'save_dir={out}']
    with tally('a full disk, det/train.py'):
        error = refused([*small_disk, out], 'det/train.py', *flags)
        assert 'cannot be written (No space left on device)' in error
        assert '--resume auto' in error
        files = sorted((tmp_path / 'out.after/tiny').glob('checkpoint-*.pd'))
        assert 4 <= len(files) < 12
        for file in files:
            weights.read(file)


def pretraining(digits, config, out):
    flags = [*TINY, *'--epochs 5000 --print_freq 1'.split(), '--data_path', digits]
    return ['main_pretrain.py', *flags, '--output_dir', out], 'epoch 3/', 'checkpoint-*.pd'


def segmentation(digits, config, out):
    flags = '--iters 5000 --log_iters 1 --save_interval 1 --device cpu'.split()
    flags += ['--config', config(), '--save_dir', out]
    return ['seg/train.py', *flags], 'iter: 3/', 'iter_*/*'


@pytest.mark.processes
@pytest.mark.parametrize(
    'program, processes',
    [
        (pretraining, 1),
        pytest.param(pretraining, 2, marks=pytest.mark.faults),
        pytest.param(segmentation, 1, marks=pytest.mark.slow),
        pytest.param(segmentation, 2, marks=pytest.mark.faults),
    ],
)
def test_a_folder_that_closes_during_a_run(digits, config, tmp_path, tally, program, processes):
    out = tmp_path / 'out'
    command, beat, checkpoints = program(digits, config, out)
    with tally(f'a folder that closes, {command[0]}, {processes} processes'):
        run = Run(*command, processes=processes, logs=tmp_path / 'launch')
        run.until(beat)
        if os.geteuid():
            out.chmod(0o555)
        else:  # root may write into every folder; so a file replaces the folder
            out.rename(tmp_path / 'moved')
            out.touch()
        code, output = run.end()
        out = out if os.geteuid() else tmp_path / 'moved'
        out.chmod(0o755)
        assert 'cannot be written (' in output and 'what was there before is untouched' in output, (
            output
        )
        assert (code == 2 and 'Traceback' not in output) if processes == 1 else code != 0
        for file in out.glob(checkpoints):
            weights.read(file)
        assert len(list(out.glob(checkpoints))) >= 1


@pytest.mark.parametrize(
    'write',
    [
        lambda path: paddle_file.write(path, {'x': bytes(10**6)}),
        lambda path: torch_file.write(path, {'x': bytes(10**6)}),
        lambda path: atomic.link(path.with_name('there'), path),
        lambda path: safetensors_file.write(path, {}, {'x': 'y' * 10**6}),
    ],
)
def test_every_writer_leaves_what_was_there(tmp_path, monkeypatch, write):
    """The system refuses files of more than 100 KB, and no link can be made."""
    (tmp_path / 'there').write_bytes(bytes(10**6))
    (tmp_path / 'x').write_bytes(b'before')

    def no_link(*names):
        raise OSError

    monkeypatch.setattr(os, 'link', no_link)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(
            InputError,
            match='x cannot be written .File too large.; what was there before is untouched',
        ):
            write(tmp_path / 'x')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / 'x').read_bytes() == b'before'
    assert sorted(os.listdir(tmp_path)) == ['there', 'x']
