"""Resuming from a checkpoint: find it, read it, restore it.

Besides the checkpoints of util/checkpoint.py, a named file may be one of the official PyTorch
programs, or hold weights alone.
"""

from collections.abc import Collection
from pathlib import Path

import paddle

from util import classes, convert, download, log, official_training, weights
from util.assign import assign_optimizer_state, assign_weights
from util.checkpoint import Position, ordered
from util.errors import InputError

# Flags that change no result: a run may be resumed with other values without a warning
START = 'finetune start_from use_ema resume start_epoch'.split()
OUTPUT = 'output_dir log_dir save_every save_every_iters keep print_freq profile'.split()
DATA = 'data_path index_dir num_workers pin_mem data_timeout'.split()
MACHINE = 'device deterministic recompute shard_optimizer'.split()
EVALUATION = 'dist_eval knn_every knn_path knn_labels'.split()
INERT = 'world_size local_rank dist_on_itp dist_url'.split()
HARMLESS = {*START, *OUTPUT, *DATA, *MACHINE, *EVALUATION, *INERT}


def find(resume: str, output_dir: str, flags: dict | None = None) -> dict:
    """The checkpoint to resume from; {} for none.

    resume: a file, its address, 'auto' for the newest undamaged checkpoint in output_dir, or ''.
    flags: the program's. Warns where they differ from those of the checkpoint.

    The key `path` of the result names the file.
    """
    if not resume:
        return {}
    if resume == 'auto':
        if not output_dir:
            raise InputError('--resume auto looks in --output_dir, but --output_dir is empty')
        state = _newest(Path(output_dir))
    else:
        resume = str(download.local(resume))
        state = _from_file(resume, (flags or {}).get('start_epoch', 0))
    warn_of_changes(state.get('args', {}), flags or {})
    return state


def _newest(folder: Path) -> dict:
    for path in reversed(ordered(folder)):
        try:
            return _training_state(path, weights.read(path))
        except InputError as error:
            log.warn(f'--resume auto skips a checkpoint: {error}')
    return {}


def _from_file(path: str, start_epoch: int) -> dict:
    """The contents of a checkpoint of ours, of the official programs, or of weights alone."""
    state = weights.read(path)
    if official_training.is_one(state):
        state = _training_state(path, convert.read_and_report(path, contents=state))
        return official_training.translated(state)
    if 'optimizer' in state:
        return _training_state(path, state)

    # As the official programs: the weights, and nothing else of a training
    log.warn(
        f'--resume {path}: it holds no optimizer state, so training begins at epoch {start_epoch} '
        'with its weights'
    )
    model = convert.read_and_report(path, contents=state)['model']
    return {'model': model, 'epoch': start_epoch - 1, 'ema': None, 'path': path}


def _training_state(path: str | Path, state: dict) -> dict:
    for key, kind in {'model': dict, 'optimizer': dict, 'epoch': int}.items():
        if not isinstance(state.get(key), kind):
            raise InputError(
                f'--resume {path}: this is not a checkpoint of a training run, it has no {key!r}'
            )
    return {**state, 'path': str(path)}


def warn_of_changes(before: dict, flags: dict, harmless: Collection[str] = HARMLESS) -> None:
    """Warn of flags that differ from those of the resumed run, unless they are harmless."""
    changed = []
    for name, value in flags.items():
        if name in harmless or name not in before:
            continue
        if before[name] != value:
            changed.append(f'--{name} was {before[name]} and is {value}')
    if changed:
        log.warn('resuming with other flags: ' + '; '.join(changed))


def accum_iter(state: dict, global_batch: int, asked: int) -> int:
    """Iterations per optimizer step that keep the effective batch of the earlier run.

    Returns `asked`, the value of --accum_iter, where the effective batch is not a multiple of the
    global batch. A warning says what changes.
    """
    now = global_batch * asked
    before = state.get('position', {}).get('effective_batch', now)
    if before == now:
        return asked

    if before % global_batch == 0:
        kept = before // global_batch
        remedy = f'so --accum_iter is now {kept}'
    else:
        kept = asked
        remedy = f'and no --accum_iter keeps it: it is now {now}'
    log.warn(
        f'the effective batch was {before}; --accum_iter {asked} with {global_batch} images per '
        f'iteration would make it {now}, {remedy}'
    )
    return kept


def restore(state: dict, model: paddle.nn.Layer, step, kept: dict | None = None) -> Position:
    """Restore model, optimizer, step and the Saver's `kept`; returns where training continues."""
    kept = {} if kept is None else kept
    # before the weights: "other classes" says more than "the head does not fit"
    classes.compare(state, kept)

    # pop frees the arrays
    path = state['path']
    tensors = state.pop('model')
    assign_weights(model, tensors, path)
    optimizer = state.pop('optimizer', None)
    if official_training.is_one({'optimizer': optimizer}):
        order = list(tensors)
        optimizer = official_training.optimizer_state(optimizer, model, step.optimizer, order, path)
    if optimizer is not None:
        assign_optimizer_state(model, step.optimizer, optimizer, path, step.keeps_state_of)
    step.load_state_dict(state.get('scaler', {}))
    for name, value in kept.items():
        if name not in state:
            continue
        if hasattr(value, 'load_state_dict'):
            value.load_state_dict(state[name])
        elif not hasattr(value, 'state_dict') and name != 'ema':
            # without --ema_decay 'ema' stays None: nothing would update the earlier average
            kept[name] = state[name]

    # upstream's files have only the epoch
    position = state.get('position', {'epoch': state['epoch'] + 1})
    known = {}
    for name in Position.__dataclass_fields__:
        if name in position:
            known[name] = position[name]
    return Position(**known)
