import numpy as np
import paddle
import pytest
import toy

import models_zoo
from util import amp, checkpoint, optim, resume, weights
from util.assign import assign_weights, optimizer_state, state_tensor
from util.errors import InputError
from util.progress import Progress
from util.weights import paddle_file


def training(name='mae_vit_nano_patch4', **kwargs):
    model = models_zoo.autoencoder(name, **{'in_chans': 1} | kwargs)
    optimizer = optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    optimizer.set_lr(1e-3)
    return model, amp.Step(optimizer)


def saver(folder, model, step, **asked):
    train(model, step, seed=0)  # an optimizer has a state only after its first step
    flags = {
        'output_dir': str(folder),
        'lr': None,
        'epochs': 10,
        'save_every': 20,
        'save_every_iters': 0,
        'keep': 0,
    }
    return checkpoint.Saver(model, step, flags | asked, effective_batch=4)


def train(model, step, seed):
    paddle.seed(seed)
    step.backward(
        model(paddle.randn([4, model.patch_embed.in_chans, *model.patch_embed.img_size]))[0],
        step.accum_iter - 1,
    )


def test_going_on_from_a_checkpoint_equals_never_having_stopped(tmp_path):
    straight = training()
    train(*straight, seed=1)
    keeper = saver(tmp_path, *straight, save_every=7)
    keeper.after_epoch(7)
    keeper.join()
    train(*straight, seed=2)

    paddle.nn.Linear(3, 3)  # a layer made before the model shifts Paddle's own parameter names
    resumed = training()
    state = resume.find(str(tmp_path / 'checkpoint-7.pd'), '')
    assert resume.restore(state, *resumed) == checkpoint.Position(8)
    train(*resumed, seed=2)
    for (name, expected), got in zip(straight[0].named_parameters(), resumed[0].parameters()):
        np.testing.assert_array_equal(expected.numpy(), got.numpy(), err_msg=name)


def test_a_checkpoint_has_the_official_keys_and_structured_optimizer_state(tmp_path):
    model, step = training()
    train(model, step, seed=1)
    keeper = saver(tmp_path, model, step)
    keeper.after_epoch(0)
    keeper.join()
    saved = weights.read(tmp_path / 'checkpoint-0.pd')
    assert list(saved) == 'model optimizer epoch scaler args position environment'.split()
    trainable = [name for name, p in model.named_parameters() if not p.stop_gradient]
    assert sorted(name for name, kinds in saved['optimizer'].items() if kinds) == sorted(trainable)
    moments = saved['optimizer']['blocks.1.mlp.fc1.weight']
    assert set(moments) == {'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'}
    assert moments['moment1'].shape == (96, 384)


def test_a_file_with_only_the_official_keys_resumes_after_its_epoch(tmp_path):
    model, step = training()
    keeper = saver(tmp_path, model, step)
    keeper.after_epoch(0)
    keeper.join()
    official = weights.read(tmp_path / 'checkpoint-0.pd')
    paddle.save(
        {key: value for key, value in official.items() if key != 'position'}, str(tmp_path / 'x.pd')
    )
    found = resume.find(str(tmp_path / 'x.pd'), '')
    assert resume.restore(found, model, step) == checkpoint.Position(1)


@pytest.mark.parametrize(
    'other, message',
    [
        ({'img_size': 16}, r'pos_embed is \[1, 17, 96\] there, \[1, 65, 96\] here'),
        (
            {'in_chans': 3},
            r'patch_embed.proj.weight is \[96, 3, 4, 4\] there, \[96, 1, 4, 4\] here',
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_its_first_difference(tmp_path, other, message):
    keeper = saver(tmp_path, *training(**other))
    keeper.after_epoch(0)
    keeper.join()
    with pytest.raises(InputError, match=message):
        resume.restore(resume.find(str(tmp_path / 'checkpoint-0.pd'), ''), *training())


def test_missing_and_additional_keys_are_named():
    model, _ = training()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match='norm.weight .* is missing there'):
        assign_weights(
            model, {name: t for name, t in tensors.items() if name != 'norm.weight'}, 'x.pd'
        )
    with pytest.raises(InputError, match='it has head.weight, which'):
        assign_weights(model, tensors | {'head.weight': tensors['norm.weight']}, 'x.pd')


def test_weights_alone_begin_a_training_as_in_the_official_programs(tmp_path, capsys):
    trained, begun = training(), training()
    train(*trained, seed=1)
    paddle.save({'model': trained[0].state_dict()}, str(tmp_path / 'x.pd'))
    state = resume.find(str(tmp_path / 'x.pd'), '', {'start_epoch': 3})
    assert resume.restore(state, *begun) == checkpoint.Position(3)
    assert 'it holds no optimizer state, so training begins at epoch 3' in capsys.readouterr().err
    for expected, got in zip(trained[0].parameters(), begun[0].parameters()):
        np.testing.assert_array_equal(expected.numpy(), got.numpy())
    moments = [state for state in optimizer_state(begun[0], begun[1].optimizer).values() if state]
    assert not any(state['moment1'].any() for state in moments)


def names(folder):
    return sorted(path.name for path in folder.glob('*.pd'))


def test_auto_takes_the_newest_whole_checkpoint_and_says_what_it_passes_over(tmp_path, capsys):
    state = training()
    keeper = saver(tmp_path, *state, save_every=1)
    for epoch in (2, 9, 10):
        keeper.after_epoch(epoch)
    keeper.save('checkpoint-10-12.pd', 9, checkpoint.Position(10, 12))
    keeper.join()
    (tmp_path / 'checkpoint-notes.pd').write_text('not ours')
    order = ['checkpoint-2.pd', 'checkpoint-9.pd', 'checkpoint-10-12.pd', 'checkpoint-10.pd']
    assert [path.name for path in checkpoint.ordered(tmp_path)] == order
    for newest in reversed(order):
        assert resume.find('auto', str(tmp_path))['path'] == str(tmp_path / newest)
        file = tmp_path / newest
        file.write_bytes(file.read_bytes()[:-3] + b'xyz')  # damages it
    assert resume.find('auto', str(tmp_path)) == {}
    with pytest.raises(InputError, match='--resume auto looks in --output_dir'):
        resume.find('auto', '')
    assert capsys.readouterr().err.count('skips a checkpoint') == 1 + 2 + 3 + 4


def test_keep_leaves_the_newest(tmp_path):
    keeper = saver(tmp_path, *training(), save_every=1, keep=2)
    for epoch in range(4):
        keeper.after_epoch(epoch)
    keeper.join()
    assert names(tmp_path) == ['checkpoint-2.pd', 'checkpoint-3.pd']


def test_saving_within_an_epoch_waits_for_an_optimizer_step(tmp_path):
    model, _ = training()
    step = amp.Step(optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95), accum_iter=2)
    keeper = saver(tmp_path, model, step, save_every_iters=3)
    progress = Progress(1, 12, 100)
    for i in range(12):
        progress.count()
        progress.update(loss=1.0)
        if step.is_last(i):
            keeper.after_step(progress, stop=False)
    keeper.join()
    assert names(tmp_path) == sorted(f'checkpoint-0-{2 * i}.pd' for i in (4, 6, 10, 12))
    state = resume.find('auto', str(tmp_path))
    position = resume.restore(state, model, step)
    assert (state['epoch'], position) == (-1, checkpoint.Position(0, 24, {'loss': 12.0}, 12))


@pytest.mark.parametrize(
    'global_batch, accum_iter, first',
    [(8, 1, 3), (4, 2, 6), (2, 4, 12), (16, 1, 2), (5, 1, 5), (5, 2, 6)],
)
def test_a_position_counts_in_samples(global_batch, accum_iter, first):
    assert checkpoint.Position(0, 24).iteration(global_batch, accum_iter) == first


@pytest.mark.parametrize(
    'global_batch, asked, kept, says',
    [
        (8, 2, 2, ''),
        (4, 2, 4, 'so --accum_iter is now 4'),
        (16, 2, 1, 'so --accum_iter is now 1'),
        (3, 2, 2, 'no --accum_iter keeps it: it is now 6'),
    ],
)
def test_resuming_keeps_the_effective_batch_if_it_can(capsys, global_batch, asked, kept, says):
    state = {'position': {'effective_batch': 16}}
    assert resume.accum_iter(state, global_batch, asked) == kept
    warned = capsys.readouterr().err
    assert says in warned and bool(warned) == bool(says)
    assert resume.accum_iter({}, global_batch, asked) == asked


def test_changed_flags_are_named(tmp_path, capsys):
    before = {'seed': 0, 'num_workers': 1, 'lr': None}
    model, step = training()
    keeper = saver(tmp_path, model, step)
    keeper.save('x.pd', 0, checkpoint.Position(1))
    keeper.join()
    paddle_file.write(tmp_path / 'x.pd', weights.read(tmp_path / 'x.pd') | {'args': before})
    resume.find(str(tmp_path / 'x.pd'), '', {'seed': 1, 'num_workers': 2, 'lr': None})
    assert capsys.readouterr().err.strip().endswith('other flags: --seed was 0 and is 1')


def test_checkpoints_beyond_the_beginning_are_set_aside(tmp_path, capsys):
    keeper = saver(tmp_path, *training(), save_every=1)
    for epoch in range(3):
        keeper.after_epoch(epoch)
    keeper.save('checkpoint-1-8.pd', 0, checkpoint.Position(1, 8))
    keeper.join()
    keeper.set_aside_later_than(checkpoint.Position(1, 4))
    assert names(tmp_path) == ['checkpoint-0.pd'] and (tmp_path / 'checkpoint-1-8.pd.old').exists()
    assert capsys.readouterr().err.count('is from another run') == 3


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda state: state.update(optimizer={}),
            'no beta1_pow_acc and beta2_pow_acc and moment1 and moment2 for cls_token',
        ),
        (
            lambda state: state['optimizer'].update({'norm.bias': {'velocity': np.zeros(96)}}),
            'for norm.bias',
        ),
        (
            lambda state: state['optimizer']['norm.bias'].update(moment1=np.zeros(7)),
            r'moment1 of norm.bias is \[7\] there',
        ),
        (
            lambda state: state['model'].update({'norm.bias': np.zeros(96, 'int64')}),
            'norm.bias is int64 there',
        ),
        (lambda state: state.update(epoch=None), "no 'epoch'"),
        (lambda state: state.update(model=3), "no 'model'"),
    ],
)
def test_a_state_that_is_not_whole_is_refused(tmp_path, change, message):
    model, step = training()
    train(model, step, seed=1)
    keeper = saver(tmp_path, model, step)
    keeper.after_epoch(0)
    keeper.join()
    state = weights.read(tmp_path / 'checkpoint-0.pd')
    change(state)
    paddle_file.write(tmp_path / 'x.pd', state)
    with pytest.raises(InputError, match=message):
        resume.restore(resume.find(str(tmp_path / 'x.pd'), ''), model, step)


def test_the_scaler_of_mixed_precision_goes_on(tmp_path, monkeypatch):
    """Paddle's real one, as it is on a GPU, whose scale is an array of one number."""

    def gpu_training():
        model, step = training()
        return model, toy.gpu_step(monkeypatch, step.optimizer)

    model, step = gpu_training()
    step.load_state_dict(step.state_dict() | {'scale': np.array([2048.0]), 'incr_count': 6})
    written = saver(tmp_path, model, step)
    written.after_epoch(0)
    written.join()
    state = resume.find(str(tmp_path / 'checkpoint-0.pd'), '')
    assert state['scaler']['scale'] == 2048.0 and state['scaler']['incr_count'] == 7
    resumed = gpu_training()
    resume.restore(state, *resumed)
    assert resumed[1].state_dict() == step.state_dict()


def test_the_powers_of_betas_are_on_the_cpu_after_resuming(monkeypatch):
    """Where Paddle has them from the start, on GPUs too."""
    places = []
    monkeypatch.setattr(paddle, 'to_tensor', lambda array, place: places.append(place))
    for kind in ('moment1', 'beta1_pow_acc', 'beta2_pow_acc'):
        state_tensor(f'linear_0.w_0_{kind}_0', np.ones([1], 'float32'))
    moment, *powers = places
    assert moment is None and all(place.is_cpu_place() for place in powers)
