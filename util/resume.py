"""Going on from a checkpoint of util/checkpoint.py: find it, read it, put it back."""

from pathlib import Path

import paddle

from util import classes, log, weights
from util.assign import assign_optimizer_state, assign_weights
from util.checkpoint import Position, ordered
from util.errors import InputError

# Flags that change no result; a run may be resumed with others without a warning
HARMLESS = {
    *(
        'output_dir',
        'log_dir',
        'data_path',
        'device',
        'num_workers',
        'pin_mem',
        'resume',
        'start_epoch',
    ),
    *(
        'save_every',
        'save_every_iters',
        'keep',
        'print_freq',
        'world_size',
        'local_rank',
        'dist_on_itp',
    ),
    *('dist_url', 'recompute', 'finetune', 'dist_eval', 'knn', 'data_timeout'),
}


def find(resume: str, output_dir: str, flags: dict | None = None) -> dict:
    """The checkpoint to resume from: a file's, or with 'auto' the newest whole one in output_dir; {} for none.

    Its key `path` names the file. Warns where `flags`, the program's, differ from those that the checkpoint was made with.
    """
    if resume == 'auto' and not output_dir:
        raise InputError('--resume auto looks in --output_dir, which is empty')
    if not resume:
        return {}
    state = _newest(Path(output_dir)) if resume == 'auto' else _training_state(resume)
    _warn_of_changes(state.get('args', {}), flags or {})
    return state


def _newest(folder: Path) -> dict:
    for path in reversed(ordered(folder)):
        try:
            return _training_state(path)
        except InputError as error:
            log.warn(f'--resume auto passes over a checkpoint: {error}')
    return {}


def _training_state(path: str | Path) -> dict:
    state = weights.read(path)
    if isinstance(state.get('optimizer'), dict) and 'param_groups' in state['optimizer']:
        raise InputError(
            f'--resume {path}: training of PyTorch cannot go on here; main_finetune.py and main_linprobe.py '
            'begin from its weights with --finetune'
        )
    for key, kind in (('model', dict), ('optimizer', dict), ('epoch', int)):
        if not isinstance(state.get(key), kind):
            raise InputError(
                f'--resume {path}: this is no checkpoint of a training run, it has no {key!r}'
            )
    return {**state, 'path': str(path)}


def _warn_of_changes(before: dict, flags: dict) -> None:
    """Say which flags differ from those of the run that is resumed, where they may change its results."""
    changed = [
        f'--{name} was {before[name]} and is {value}'
        for name, value in flags.items()
        if name in before and before[name] != value and name not in HARMLESS
    ]
    if changed:
        log.warn('resuming with other flags: ' + '; '.join(changed))


def accum_iter(state: dict, global_batch: int, asked: int) -> int:
    """Iterations an optimizer step, chosen so that the effective batch of the earlier run is kept.

    Where it is no multiple of the global batch, `asked` stays. A warning says what changes.
    """
    before = state.get('position', {}).get('effective_batch', global_batch * asked)
    if before == global_batch * asked:
        return asked
    kept = before // global_batch if before % global_batch == 0 else asked
    if kept != asked:
        remedy = f'so --accum_iter is now {kept}'
    else:
        remedy = f'and no --accum_iter keeps it: it is now {global_batch * asked}'
    log.warn(
        f'the effective batch was {before}; --accum_iter {asked} with {global_batch} images an iteration '
        f'would make it {global_batch * asked}, {remedy}'
    )
    return kept


def restore(state: dict, model: paddle.nn.Layer, step, kept: dict | None = None) -> Position:
    """Put a checkpoint into model, optimizer, step and the Saver's `kept`; where training goes on."""
    kept = {} if kept is None else kept
    # First of all: other classes are a better reason than a head that does not fit
    classes.compare(state, kept)

    # pop: the arrays need not stay in memory
    assign_weights(model, state.pop('model'), state['path'])
    assign_optimizer_state(model, step.optimizer, state.pop('optimizer'), state['path'])
    step.load_state_dict(state.get('scaler', {}))
    for name, value in kept.items():
        if hasattr(value, 'load_state_dict') and name in state:
            value.load_state_dict(state[name])
        elif hasattr(value, 'state_dict'):
            continue
        elif name in state and name != 'ema':
            # an average that only the earlier run kept would grow stale
            kept[name] = state[name]
    # Upstream's files say no more than the epoch
    position = dict(state.get('position', {'epoch': state['epoch'] + 1}))
    return Position(
        **{name: position[name] for name in Position.__dataclass_fields__ if name in position}
    )
