"""A record from what a run left behind: log.txt, a checkpoint, what its program printed."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import main_finetune
import main_linprobe
import main_pretrain
import recipes
from recipes import cost
from recipes.recipe import LAUNCH
from util import provenance, resume, weights
from util.errors import InputError

# Of whose trainings there are records; their parsers say what a recipe leaves to defaults
PROGRAMS = {
    'main_pretrain.py': main_pretrain,
    'main_finetune.py': main_finetune,
    'main_linprobe.py': main_linprobe,
}
LICENCE = 'that of the weights it began from (of the official ones: CC-BY-NC 4.0)'
CLASSES = {'ImageNet-1K': 1000}
LINE = re.compile(r'time ([\d.]+) s .* mem (\d+) MB')
RESULT = re.compile(r'^loss ([\d.]+)  acc1 ([\d.]+)  acc5 ([\d.]+)', re.M)
SEGMENTED = re.compile(r'\[EVAL\] aAcc: ([\d.]+) mIoU: ([\d.]+) mAcc: ([\d.]+)')
ITERATION = re.compile(r'\[TRAIN\] .*iter: (\d+)/(\d+), .*ips: ([\d.]+) ')


def read_log(path: str | Path) -> list[dict]:
    """The lines of a log.txt; InputError where it is none."""
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: cannot be read ({error})') from None
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            raise InputError(
                f'{path}, line {number}: no JSON; a run writes one object an epoch'
            ) from None
        if not isinstance(entry, dict) or 'epoch' not in entry or 'train_loss' not in entry:
            raise InputError(f'{path}, line {number}: no epoch or no train_loss in it')
        entries.append(entry)
    if not entries:
        raise InputError(f'{path} is empty: no epoch has ended')
    return entries


def flags_of(recipe: recipes.Recipe) -> dict:
    """What the recipe's command sets, and what its program does by default: the program's own parser knows."""
    words = recipes.command(recipe)
    return vars(
        PROGRAMS[recipe.program].PARSER.parse_args(words[words.index(recipe.program) + 1 :])
    )


def departures(recipe: recipes.Recipe, flags: dict, effective_batch: int) -> list[str]:
    """Where a run was not the recipe: its effective batch, any flag that changes results, whether it began from weights."""
    found = []
    if effective_batch != recipe.effective_batch:
        found.append(
            f"the effective batch is {effective_batch}, the recipe's {recipe.effective_batch}"
        )
    free = resume.HARMLESS | {'seed', 'accum_iter'}
    if recipe.program != 'main_linprobe.py':
        # whose features are normalised over the images of one device
        free = free | {'batch_size'}
    for name, wanted in flags_of(recipe).items():
        had = flags.get(name, wanted)
        if name not in free and had != wanted:
            found.append(
                f'--{name} is {had}, '
                + ('which the recipe leaves unset' if wanted is None else f"the recipe's {wanted}")
            )
    if bool(flags.get('finetune')) != bool(recipe.checkpoint):
        found.append(
            f'it began from no weights, the recipe from {recipe.checkpoint}'
            if recipe.checkpoint
            else f'it began from {flags["finetune"]}, the recipe from no weights'
        )
    return found


def gaps(entries: list[dict], epochs: int) -> list[str]:
    """What is missing in a log of so many epochs, or is there twice."""
    logged = [entry['epoch'] for entry in entries]
    missing = sorted(set(range(epochs)) - set(logged))
    found = []
    if missing:
        shown = ', '.join(map(str, missing[:5])) + (', ...' if len(missing) > 5 else '')
        found.append(f'{len(missing)} of {epochs} epochs are missing in the log: {shown}')
    if len(set(logged)) < len(logged):
        found.append(f'{len(logged) - len(set(logged))} epochs are in the log twice')
    return found


def outside(recipe: recipes.Recipe, result: dict) -> list[str]:
    """Results that lie outside the band around the figure to expect."""
    found = []
    for figure in recipe.figures[:1]:
        low, high = recipe.band(figure)
        if figure.metric in result and not low <= result[figure.metric] <= high:
            found.append(
                f'{figure.metric} {result[figure.metric]:.2f} is outside {low:.2f} to {high:.2f}, the band around '
                f'{figure}'
            )
    return found


def of_run(
    recipe: recipes.Recipe,
    log: str | Path,
    weight_file: str | Path,
    console: str | Path | None = None,
    licence: str | None = None,
) -> dict:
    """The record of a training; `warnings` in it says where it is not what the recipe promises. The result is the last
    epoch's, since choosing the best one would use the validation images to choose. InputError for files of other kinds."""
    entries, state = read_log(log), _checkpoint(recipe, weight_file)
    flags, effective_batch = state['args'], state['position'].get('effective_batch', 0)
    last = entries[-1]
    result = {'train_loss': last['train_loss']} | {
        name: last[f'test_{name}'] for name in ('acc1', 'acc5', 'loss') if f'test_{name}' in last
    }
    found = (
        departures(recipe, flags, effective_batch)
        + gaps(entries, flags.get('epochs', 0))
        + outside(recipe, result)
    )
    found += _mismatches(recipe, state, last['epoch'])
    devices = max(1, effective_batch // (flags['batch_size'] * flags['accum_iter']))
    kept = {
        name: value
        for name, value in sorted(flags.items())
        if name not in resume.HARMLESS and value is not None
    }
    hashed = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
    origin = state.get('environment') or {'commit': 'not recorded by the run'}
    began = flags.get('finetune') and Path(flags['finetune']).name
    headline = (
        f'{result["acc1"]:.2f} acc1'
        if 'acc1' in result
        else f'training loss {result["train_loss"]:.4f}'
    )
    licence = licence or (LICENCE if began else 'none, made by this run')
    return _record(
        recipe,
        headline,
        _command(recipe.program, kept, began, devices),
        result,
        log,
        weight_file,
        licence,
    ) | {
        'size': _size(state['model'], flags, weight_file),
        'settings': {
            'config sha256': hashed,
            'epochs': len({entry['epoch'] for entry in entries}),
            'effective batch': effective_batch,
            'processes': devices,
            'precision': flags.get('amp') or ('float16' if state.get('scaler') else 'float32'),
        },
        'environment': origin,
        'figures': pace(console, effective_batch // flags['accum_iter']),
        'warnings': found,
    }


def _checkpoint(recipe: recipes.Recipe, weight_file: str | Path) -> dict:
    """A checkpoint's contents; InputError where it is none, or of another model than the recipe's."""
    state = weights.read(weight_file)
    if not {'model', 'args', 'epoch', 'position'} <= state.keys():
        raise InputError(
            f'{weight_file} is no checkpoint of a training here: it does not say its flags and epoch'
        )
    model = state['args'].get('model')
    if model != recipe.model:
        raise InputError(f'{weight_file} is of {model}, and {recipe.name} is about {recipe.model}')
    return state


def _mismatches(recipe: recipes.Recipe, state: dict, last_epoch: int) -> list[str]:
    """Where a checkpoint is not of the end of its log, or of another data set than the recipe's."""
    found = []
    if state['epoch'] != last_epoch:
        found.append(f'the checkpoint is of epoch {state["epoch"]}, the log ends with {last_epoch}')
    classes = len(state['model'].get('head.bias', state['model'].get('head.1.bias', [])))
    if classes and classes != CLASSES.get(recipe.data, classes):
        found.append(f'{classes} classes; {recipe.data} has {CLASSES[recipe.data]}')
    return found


def of_evaluation(
    recipe: recipes.Recipe, console: str | Path, weight_file: str | Path, licence: str | None = None
) -> dict:
    """The record of the original's weights evaluated here, from what main_finetune.py or main_linprobe.py --eval or
    seg/val.py printed; InputError where that is of other weights, or no evaluation."""
    text = _console(console)
    if Path(weight_file).name not in text:
        raise InputError(
            f'--console {console} does not name {Path(weight_file).name}; is it of other weights?'
        )
    return _printed(
        recipe, console, weight_file, result_of(recipe, text, console), licence or LICENCE
    ) | {'status': 'ported-eval'}


def of_segmentation(
    recipe: recipes.Recipe, console: str | Path, weight_file: str | Path, licence: str | None = None
) -> dict:
    """The record of a training by seg/train.py --do_eval. Its log is what it printed, its result the last evaluation's."""
    text = _console(console)
    record = _printed(
        recipe, console, weight_file, result_of(recipe, text, console), licence or LICENCE
    )
    iterations = ITERATION.findall(text)
    if not iterations:
        raise InputError(f'--console {console}: no line of progress in it')
    last, total, _ = iterations[-1]
    if last != total:
        record['warnings'].append(f'the last iteration in the log is {last} of {total}')
    rates = sorted(float(rate) for *_, rate in iterations)
    return record | {
        'settings': record['settings'] | {'iterations': int(last)},
        'figures': {'images/s and device': rates[len(rates) // 2]},
    }


def result_of(recipe: recipes.Recipe, text: str, console: str | Path) -> dict:
    """The last evaluation that a program printed, in percent (the loss apart); InputError where there is none."""
    if recipe.program.startswith('seg/'):
        names, scale, found = ('aAcc', 'mIoU', 'mAcc'), 100, SEGMENTED.findall(text)
    else:
        names, scale, found = ('loss', 'acc1', 'acc5'), 1, RESULT.findall(text)
    if not found:
        raise InputError(
            f'--console {console}: no line of {", ".join(names)}, which an evaluation prints'
        )
    return {name: round(scale * float(value), 4) for name, value in zip(names, found[-1])}


def _printed(
    recipe: recipes.Recipe, console: str | Path, weight_file: str | Path, result: dict, licence: str
) -> dict:
    """The record of a run that leaves nothing but weights and what it printed; the command is the recipe's."""
    metric = recipe.figures[0].metric if recipe.figures else next(iter(result))
    headline = f'{result[metric]:.2f} {metric} with {Path(weight_file).name}'
    return _record(
        recipe, headline, shlex.join(recipes.command(recipe)), result, console, weight_file, licence
    ) | {
        'settings': {'commit': f'{provenance.commit()} (of this record; the run does not say)'},
        'warnings': outside(recipe, result),
    }


def _record(
    recipe: recipes.Recipe,
    headline: str,
    run: str,
    result: dict,
    log: str | Path,
    weight_file: str | Path,
    licence: str,
) -> dict:
    """What every record of a recipe has."""
    return {
        'claim': f'{recipe.name}: {headline}',
        'recipe': recipe.name,
        'status': 'measured',
        'model': recipe.model,
        'run': run,
        'result': result,
        'published': [str(figure) for figure in recipe.figures],
        'weights': {
            'file': Path(weight_file).name,
            'sha256': weights.sha256(weight_file),
            'licence': licence,
        },
        'log': {'file': f'{recipe.name}.log.txt', 'sha256': weights.sha256(log)},
        'deviations': list(recipe.departures),
    }


def _console(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise InputError(f'--console {path}: cannot be read ({error})') from None


def _command(program: str, flags: dict, began: str | None, devices: int) -> str:
    """The program with all its flags but those that change no result, such as the reader's folders."""
    words = [*(LAUNCH if devices > 1 else ['python']), program, '--data_path', 'DATA']
    words += ['--finetune', began] if began else []
    for name, value in flags.items():
        if name == 'global_pool':
            words += [] if value else ['--cls_token']
        elif value is True or isinstance(value, list):
            words += [f'--{name}', *(map(str, value) if isinstance(value, list) else ())]
        elif value is not False and value != '':
            words += [f'--{name}', str(value)]
    return shlex.join(words)


def _size(tensors: dict, flags: dict, weight_file: str | Path) -> dict:
    side = flags.get('input_size', 224)
    macs = cost.multiply_adds(flags['model'], side) if flags.get('in_chans', 3) == 3 else None
    return {
        'parameters': int(sum(array.size for array in tensors.values())),
        'input': f'{side} x {side}',
        **({'GFLOPs an image, forward': round(2 * macs / 1e9, 2)} if macs else {}),
        'file, MB': round(Path(weight_file).stat().st_size / 1e6, 1),
    }


def pace(console: str | Path | None, global_batch: int) -> dict:
    """Rate and memory by a program's lines of progress: the median of their times an iteration, the largest memory."""
    if not console:
        return {'images/s': 'not recorded', 'peak memory, MB': 'not recorded'}
    lines = LINE.findall(_console(console))
    if not lines:
        raise InputError(f'--console {console}: no line of progress in it')
    times = sorted(float(seconds) for seconds, _ in lines)
    return {
        'images/s': round(global_batch / max(times[len(times) // 2], 1e-3), 1),
        'peak memory, MB': max(int(memory) for _, memory in lines),
    }
