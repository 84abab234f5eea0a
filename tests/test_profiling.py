"""--profile: which iterations are in the trace, what is written, and what is refused."""

import json

import paddle
import pytest
import toy

import main_pretrain
from det import train as det_train
from engine_loop import Run
from seg import train as seg_train
from util import profiling
from util.errors import InputError


def train(folder, text, epochs=2, batches=4):
    """Train a toy for some epochs with --profile."""
    model = toy.layer()
    data = toy.Data([(paddle.ones([3, 2]),)] * batches)
    asked = toy.flags(folder, epochs=epochs, profile=text)
    run = Run(model, toy.adamw(model), data, asked)
    for _ in run.epochs():
        run.train(lambda batch: run.network(batch[0]).square().mean())


def steps_of(file):
    """The numbers of the iterations in a chrome trace, in order."""
    events = json.loads(file.read_text())['traceEvents']
    names = {event.get('name', '') for event in events}
    return sorted(name for name in names if name.startswith('ProfileStep'))


def test_the_asked_iterations_are_profiled_across_epochs(tmp_path, capsys):
    train(tmp_path, '3:6')
    trace = tmp_path / 'profile-3-6.json'
    assert len(steps_of(trace)) == 3
    assert 'Overview Summary' in (tmp_path / 'profile-3-6.txt').read_text()
    assert f'{trace} (trace)' in capsys.readouterr().out


def test_a_run_that_ends_too_early_writes_what_it_has_and_warns(tmp_path, capsys):
    train(tmp_path, '6:100')
    assert len(steps_of(tmp_path / 'profile-6-100.json')) == 2
    assert '--profile 6:100: this run ended after 8 iterations' in capsys.readouterr().err


def test_a_run_that_never_comes_so_far_warns(tmp_path, capsys):
    train(tmp_path, '8:9')
    assert not list(tmp_path.glob('profile*'))
    assert 'this run ended after 8 iterations' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['5', '5:', ':5', '5:5', '6:5', '-1:5', 'a:b', '1:2:3', '0.5:2'])
@pytest.mark.parametrize(
    'parser, needed',
    [
        (main_pretrain.PARSER, ['--data_path', 'x']),
        (det_train.PARSER, ['-c', 'x']),
        (seg_train.PARSER, ['--config', 'x']),
    ],
    ids=['main_pretrain', 'det', 'seg'],
)
def test_what_is_no_range_is_refused(parser, needed, text, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args([*needed, f'--profile={text}'])
    assert end.value.code == 2
    assert f'--profile: {text} is not FROM:TO' in capsys.readouterr().err


def test_a_run_without_an_output_folder_cannot_be_profiled():
    with pytest.raises(InputError, match='--profile 1:2 writes to the output folder; give'):
        profiling.Profile('1:2', '')
