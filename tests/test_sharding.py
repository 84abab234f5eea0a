"""--shard_optimizer: the state of an optimizer spread over processes gives the same files."""

import numpy as np
import paddle
import pytest
import toy
from conftest import ROOT, TINY_VIT, assert_same_state, log_of

import main_finetune
from models_sizes import SIZES
from util import dist, optim, weights
from util.sharding import BUCKET, Sharding, buckets, shares

LENGTH = '--batch_size 5 --epochs 2 --warmup_epochs 1 --save_every 1 --print_freq 100'.split()


def flags_of(program, digits, out, *more):
    """The flags of a short training of a tiny model."""
    flags = list(TINY_VIT)
    if program == 'main_pretrain':
        place = flags.index('--nb_classes')
        del flags[place : place + 2]
        flags += ['--model', 'mae_vit_nano_patch4']
    return [*flags, *LENGTH, '--data_path', digits, '--output_dir', out, *more]


def large_sizes():
    """The sizes of the larger tensors in the encoder of ViT-L."""
    width, depth = SIZES['large_patch16'].width, SIZES['large_patch16'].depth
    block = [3 * width**2, width**2, 4 * width**2, 4 * width**2, 3 * width, 4 * width, width]
    return block * depth


@pytest.mark.parametrize('count', [1, 2, 3, 8, 64])
def test_each_rank_owns_an_equal_part(count):
    sizes = large_sizes()
    totals = np.bincount(shares(sizes, count), weights=sizes, minlength=count)
    assert totals.sum() == sum(sizes)
    assert totals.max() - totals.min() <= max(sizes)
    if count <= 8:
        assert totals.max() < 1.01 * sum(sizes) / count


def test_buckets_hold_each_parameter_once_and_fit():
    sizes = [5, 1, 9, 3, 3, 20]
    found = buckets(sizes, largest=10)
    assert found == [[5], [2], [0, 3], [4, 1]]
    assert buckets([], 10) == []
    assert max(large_sizes()) <= BUCKET


@pytest.mark.parametrize('make', [toy.adamw, lambda model: optim.Lars(model.parameters())])
def test_one_process_owns_all_and_its_step_is_the_plain_one(make):
    found = []
    for shared in (False, True):
        model = toy.layer()
        optimizer = make(model)
        step = toy.amp.Step(optimizer, sharding=Sharding(optimizer) if shared else None)
        optimizer.set_lr(0.1)
        for row in ([1.0, 2.0], [3.0, -1.0]):
            step.backward(model(paddle.to_tensor([row])).sum(), 0)
        found.append(model.weight.numpy())
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_two_processes_write_the_same_file_with_and_without_sharding(
    digits, tmp_path, on_two_processes
):
    plain, shared, resumed = (tmp_path / name for name in ('plain', 'shared', 'resumed'))
    on_two_processes(
        'main_pretrain',
        flags_of('main_pretrain', digits, plain),
        flags_of('main_pretrain', digits, shared, '--shard_optimizer'),
        flags_of(
            'main_pretrain',
            digits,
            resumed,
            *['--shard_optimizer', '--resume', plain / 'checkpoint-0.pd'],
        ),
    )
    assert log_of(shared) == log_of(plain)
    for folder in (shared, resumed):
        ours, theirs = (weights.read(out / 'checkpoint-1.pd') for out in (folder, plain))
        assert ours['args'].pop('shard_optimizer') != theirs['args'].pop('shard_optimizer')
        assert_same_state(folder / 'checkpoint-1.pd', plain / 'checkpoint-1.pd')


@pytest.mark.slow
@pytest.mark.processes
def test_after_a_failed_evaluation_a_shared_optimizer_is_whole(
    digits, tmp_path, run_program, two_processes
):
    flags = flags_of('main_finetune', digits, tmp_path / 'out', '--shard_optimizer')
    script = tmp_path / 'fails.py'
    script.write_text(
        'import main_finetune as program\n'
        'def evaluate(*args, **kwargs):\n'
        "    raise RuntimeError('failed on purpose')\n"
        'program.evaluate = evaluate\n'
        f'program.main(program.PARSER.parse_args({list(map(str, flags))}))\n'
    )
    result = run_program(script, launcher=two_processes, PYTHONPATH=str(ROOT))
    assert 'holds what was trained before it' in result.stderr + result.stdout
    (file,) = (tmp_path / 'out').glob('checkpoint-0-*.pd')
    main_finetune.main(main_finetune.PARSER.parse_args([*map(str, flags), '--resume', str(file)]))
    assert [row['epoch'] for row in log_of(tmp_path / 'out')] == [0, 1]


@pytest.mark.parametrize('make', [toy.adamw, lambda model: optim.Lars(model.parameters())])
def test_a_rank_has_the_state_of_its_own_parameters_alone(monkeypatch, make):
    monkeypatch.setattr(dist, 'world_size', lambda: 2)
    monkeypatch.setattr(dist, 'rank', lambda: 1)
    model = toy.layer()  # the weight is larger, so rank 0 has it and rank 1 the bias
    optimizer = make(model)
    optimizer.set_lr(0.1)
    sharding = Sharding(optimizer)
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    model(paddle.ones([1, 2])).sum().backward()
    sharding.drop_other_gradients()
    optimizer.step()
    state = [key for key in optimizer.state_dict() if isinstance(key, str) and '_moment' in key]
    assert state and all(key.startswith(model.bias.name) for key in state)
    assert sharding.owns(model.bias) and not sharding.owns(model.weight)
    np.testing.assert_array_equal(model.weight.numpy(), before['weight'])
    assert model.bias.numpy() != before['bias']


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    'program, processes, more',
    [
        ('main_pretrain', 3, ['--accum_iter', '2']),
        ('main_finetune', 2, ['--clip_grad', '1', '--ema_decay', '0.9']),
        ('main_linprobe', 3, []),
    ],
)
def test_any_program_writes_the_same_file(
    digits, tmp_path, run_program, two_processes, program, processes, more
):
    plain, shared = tmp_path / 'plain', tmp_path / 'shared'
    runs = [
        flags_of(program, digits, plain, *more),
        flags_of(program, digits, shared, *more, '--shard_optimizer'),
    ]
    script = tmp_path / 'runs.py'
    script.write_text(
        f'import {program} as program\n'
        f'for flags in {[list(map(str, flags)) for flags in runs]}:\n'
        '    program.main(program.PARSER.parse_args(flags))\n'
    )
    launcher = [*two_processes, '--nproc_per_node', str(processes)]  # the last number counts
    result = run_program(script, launcher=launcher, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stdout + result.stderr
    assert log_of(shared) == log_of(plain)
    assert_same_state(shared / 'checkpoint-1.pd', plain / 'checkpoint-1.pd')
