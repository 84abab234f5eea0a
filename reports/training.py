"""Make a record from the output of a run: log.txt, a checkpoint, what its program printed."""

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
from util import provenance, resume, sizes, weights
from util.errors import InputError

# Programs whose trainings have records. Their parsers have the defaults that a recipe leaves out
PROGRAMS = {
    'main_pretrain.py': main_pretrain,
    'main_finetune.py': main_finetune,
    'main_linprobe.py': main_linprobe,
}
LICENCE = 'that of the weights it began from (of the official ones: CC-BY-NC 4.0)'
UNKNOWN_ORIGIN = {'commit': 'not recorded by the run'}
UNKNOWN_PACE = {'images/s': 'not recorded', 'peak memory, MB': 'not recorded'}
CLASSES = {'ImageNet-1K': 1000}
LINE = re.compile(r'time ([\d.]+) s .* mem (\d+) MB')
RESULT = re.compile(r'^loss ([\d.]+)  acc1 ([\d.]+)  acc5 ([\d.]+)', re.M)
SEGMENTED = re.compile(r'\[EVAL\] aAcc: ([\d.]+) mIoU: ([\d.]+) mAcc: ([\d.]+)')
ITERATION = re.compile(r'\[TRAIN\] .*iter: (\d+)/(\d+), .*ips: ([\d.]+) ')


def read_log(path: str | Path) -> list[dict]:
    """The lines of a log.txt; InputError if the file is something else."""
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
                f'{path}, line {number}: no JSON; a run writes one object per epoch'
            ) from None
        if not isinstance(entry, dict) or not {'epoch', 'train_loss'} <= entry.keys():
            raise InputError(f'{path}, line {number}: no epoch or no train_loss in it')
        entries.append(entry)
    if not entries:
        raise InputError(f'{path} is empty: no epoch has ended')
    return entries


def flags_of(recipe: recipes.Recipe) -> dict:
    """All flags of a recipe's command, with the defaults of its program."""
    words = recipes.command(recipe)
    first_flag = words.index(recipe.program) + 1
    parser = PROGRAMS[recipe.program].PARSER
    return vars(parser.parse_args(words[first_flag:]))


def departures(recipe: recipes.Recipe, flags: dict, effective_batch: int) -> list[str]:
    """How a run differs from its recipe: effective batch, flags that change results, weights.

    One sentence for each difference.
    """
    found = []
    expected = recipe.effective_batch
    if effective_batch != expected:
        found.append(f"the effective batch is {effective_batch}, the recipe's {expected}")

    free = resume.HARMLESS | {'seed', 'accum_iter'}
    if recipe.program != 'main_linprobe.py':
        # a probe normalises features over the images of one device, so there the batch size counts
        free = free | {'batch_size'}
    for name, wanted in flags_of(recipe).items():
        had = flags.get(name, wanted)
        if name in free or had == wanted:
            continue
        recipe_has = f"the recipe's {wanted}"
        if wanted is None:
            recipe_has = 'which the recipe leaves unset'
        found.append(f'--{name} is {had}, {recipe_has}')

    weight_file = flags.get('finetune')
    if recipe.checkpoint and not weight_file:
        found.append(f'it began from no weights, the recipe from {recipe.checkpoint}')
    if weight_file and not recipe.checkpoint:
        found.append(f'it began from {weight_file}, the recipe from no weights')
    return found


def gaps(entries: list[dict], epochs: int) -> list[str]:
    """Sentences about epochs that are missing in a log, or twice in it. It should have `epochs`."""
    logged = [entry['epoch'] for entry in entries]
    missing = sorted(set(range(epochs)) - set(logged))
    repeated = len(logged) - len(set(logged))
    found = []
    if missing:
        shown = ', '.join(str(epoch) for epoch in missing[:5])
        if len(missing) > 5:
            shown += ', ...'
        found.append(f'{len(missing)} of {epochs} epochs are missing in the log: {shown}')
    if repeated:
        found.append(f'{repeated} epochs are in the log twice')
    return found


def outside(recipe: recipes.Recipe, result: dict) -> list[str]:
    """A sentence if the result is outside the band around the figure to expect."""
    if not recipe.figures:
        return []
    figure = recipe.figures[0]
    metric = figure.metric
    low, high = recipe.band(figure)
    if metric not in result or low <= result[metric] <= high:
        return []
    value = f'{metric} {result[metric]:.2f}'
    return [f'{value} is outside {low:.2f} to {high:.2f}, the band around {figure}']


def of_run(
    recipe: recipes.Recipe,
    log: str | Path,
    weight_file: str | Path,
    console: str | Path | None = None,
    licence: str | None = None,
) -> dict:
    """The record of a training, from its log.txt and its checkpoint.

    console: what the program printed, for rate and memory. The result is that of the last epoch:
    choosing the best epoch would use the validation images for the choice. The list `warnings` says
    how the run differs from the recipe. InputError for files of other kinds.
    """
    entries = read_log(log)
    state = _checkpoint(recipe, weight_file)
    flags = state['args']
    effective_batch = state['position'].get('effective_batch', 0)
    last = entries[-1]
    result = _result_of_epoch(last)

    warnings = departures(recipe, flags, effective_batch)
    warnings += gaps(entries, flags.get('epochs', 0))
    warnings += outside(recipe, result)
    warnings += _mismatches(recipe, state, last['epoch'])

    global_batch = effective_batch // flags['accum_iter']
    devices = max(1, global_batch // flags['batch_size'])
    kept = _flags_with_effect(flags)
    kept_text = json.dumps(kept, sort_keys=True, default=str)
    settings = {
        'config sha256': hashlib.sha256(kept_text.encode()).hexdigest(),
        'epochs': len({entry['epoch'] for entry in entries}),
        'effective batch': effective_batch,
        'processes': devices,
        'precision': _precision(state),
    }

    began = flags.get('finetune') and Path(flags['finetune']).name
    own_licence = LICENCE if began else 'none, made by this run'
    record = _record(
        recipe,
        headline=_headline(result),
        run=_command(recipe.program, kept, began, devices),
        result=result,
        log=log,
        weight_file=weight_file,
        licence=licence or own_licence,
    )
    return record | {
        'size': _size(state['model'], flags, weight_file),
        'settings': settings,
        'environment': state.get('environment') or UNKNOWN_ORIGIN,
        'figures': pace(console, global_batch),
        'warnings': warnings,
    }


def _result_of_epoch(entry: dict) -> dict:
    """The training loss of a line of log.txt, and its evaluation if there was one."""
    result = {'train_loss': entry['train_loss']}
    for name in ('acc1', 'acc5', 'loss'):
        if f'test_{name}' in entry:
            result[name] = entry[f'test_{name}']
    return result


def _precision(state: dict) -> str:
    if state['args'].get('amp'):
        return state['args']['amp']
    return 'float16' if state.get('scaler') else 'float32'


def _headline(result: dict) -> str:
    if 'acc1' in result:
        return f'{result["acc1"]:.2f} acc1'
    return f'training loss {result["train_loss"]:.4f}'


def _flags_with_effect(flags: dict) -> dict:
    """The flags that change results and are set, sorted by name."""
    counting = sorted(flags.keys() - resume.HARMLESS)
    return {name: flags[name] for name in counting if flags[name] is not None}


def _checkpoint(recipe: recipes.Recipe, weight_file: str | Path) -> dict:
    """A checkpoint's contents; InputError for other files or another model than the recipe's."""
    state = weights.read(weight_file)
    if not {'model', 'args', 'epoch', 'position'} <= state.keys():
        raise InputError(
            f'{weight_file} is not a checkpoint of a training here: it has no flags and no epoch'
        )
    model = state['args'].get('model')
    if model != recipe.model:
        raise InputError(f'{weight_file} is of {model}, and {recipe.name} is about {recipe.model}')
    return state


def _mismatches(recipe: recipes.Recipe, state: dict, last_epoch: int) -> list[str]:
    """Sentences about a checkpoint that is not of its log's last epoch, or of other data."""
    found = []
    epoch = state['epoch']
    if epoch != last_epoch:
        found.append(f'the checkpoint is of epoch {epoch}, the log ends with {last_epoch}')

    tensors = state['model']
    probe_bias = tensors.get('head.1.bias', [])
    classes = len(tensors.get('head.bias', probe_bias))
    expected = CLASSES.get(recipe.data, classes)
    if classes and classes != expected:
        found.append(f'{classes} classes; {recipe.data} has {expected}')
    return found


def of_evaluation(
    recipe: recipes.Recipe, console: str | Path, weight_file: str | Path, licence: str | None = None
) -> dict:
    """The record of somebody else's weights, evaluated here.

    console: what main_finetune.py --eval, main_linprobe.py --eval or seg/val.py printed.
    InputError if it is of other weights, or of no evaluation.
    """
    text = _console(console)
    name = Path(weight_file).name
    if name not in text:
        raise InputError(f'--console {console} does not name {name}; is it of other weights?')
    result = result_of(recipe, text, console)
    record = _printed(recipe, console, weight_file, result, licence or LICENCE)
    return record | {'status': 'ported-eval'}


def of_segmentation(
    recipe: recipes.Recipe, console: str | Path, weight_file: str | Path, licence: str | None = None
) -> dict:
    """The record of a training by seg/train.py --do_eval.

    console: what it printed, which is also the log. The result is that of the last evaluation.
    """
    text = _console(console)
    result = result_of(recipe, text, console)
    record = _printed(recipe, console, weight_file, result, licence or LICENCE)
    iterations = ITERATION.findall(text)
    if not iterations:
        raise InputError(f'--console {console}: no line of progress in it')
    last, total, _ = iterations[-1]
    if last != total:
        record['warnings'].append(f'the last iteration in the log is {last} of {total}')
    rates = sorted(float(rate) for *_, rate in iterations)
    record['settings']['iterations'] = int(last)
    record['figures'] = {'images/s and device': rates[len(rates) // 2]}
    return record


def result_of(recipe: recipes.Recipe, text: str, console: str | Path) -> dict:
    """The last evaluation that a program printed: the loss, and the rest in percent.

    InputError if there is none.
    """
    if recipe.program.startswith('seg/'):
        names = ('aAcc', 'mIoU', 'mAcc')
        scale = 100  # PaddleSeg prints shares
        found = SEGMENTED.findall(text)
    else:
        names = ('loss', 'acc1', 'acc5')
        scale = 1
        found = RESULT.findall(text)
    if not found:
        shown = ', '.join(names)
        raise InputError(f'--console {console}: no line of {shown}, which an evaluation prints')
    return {name: round(scale * float(value), 4) for name, value in zip(names, found[-1])}


def _printed(
    recipe: recipes.Recipe, console: str | Path, weight_file: str | Path, result: dict, licence: str
) -> dict:
    """The record of a run that leaves only weights and its output; the command is the recipe's."""
    metric = recipe.figures[0].metric if recipe.figures else next(iter(result))
    commit = f'{provenance.commit()} (of this record; the run does not say)'
    record = _record(
        recipe,
        headline=f'{result[metric]:.2f} {metric} with {Path(weight_file).name}',
        run=shlex.join(recipes.command(recipe)),
        result=result,
        log=console,
        weight_file=weight_file,
        licence=licence,
    )
    record['settings'] = {'commit': commit}
    record['warnings'] = outside(recipe, result)
    return record


def _record(
    recipe: recipes.Recipe,
    headline: str,
    run: str,
    result: dict,
    log: str | Path,
    weight_file: str | Path,
    licence: str,
) -> dict:
    """The entries that every record of a recipe has."""
    weight_entry = {
        'file': Path(weight_file).name,
        'sha256': weights.sha256(weight_file),
        'licence': licence,
    }
    return {
        'claim': f'{recipe.name}: {headline}',
        'recipe': recipe.name,
        'status': 'measured',
        'model': recipe.model,
        'run': run,
        'result': result,
        'published': [str(figure) for figure in recipe.figures],
        'weights': weight_entry,
        'log': {'file': f'{recipe.name}.log.txt', 'sha256': weights.sha256(log)},
        'deviations': list(recipe.departures),
    }


def _console(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise InputError(f'--console {path}: cannot be read ({error})') from None


def _command(program: str, flags: dict, began: str | None, devices: int) -> str:
    """The command of a run, without flags that change no result, such as folders.

    began: name of the weights that it started from.
    """
    launcher = LAUNCH if devices > 1 else ['python']
    words = [*launcher, program, '--data_path', 'DATA']
    if began:
        words += ['--finetune', began]
    for name, value in flags.items():
        words += _words_of_flag(name, value)
    return shlex.join(words)


def _words_of_flag(name: str, value) -> list[str]:
    if name == 'global_pool':
        return [] if value else ['--cls_token']
    if value is True:
        return [f'--{name}']
    if value is False or value == '':
        return []
    values = value if isinstance(value, list) else [value]
    return [f'--{name}', *map(str, values)]


def _size(tensors: dict, flags: dict, weight_file: str | Path) -> dict:
    input_size = flags.get('input_size', 224)
    size = {
        'parameters': int(sum(array.size for array in tensors.values())),
        'input': sizes.shown(input_size),
    }
    if flags.get('in_chans', 3) == 3 and not flags.get('patch_size'):  # as the formula expects
        macs = cost.multiply_adds(flags['model'], input_size)
        if macs:
            size['GFLOPs an image, forward'] = round(2 * macs / 1e9, 2)
    size['file, MB'] = round(Path(weight_file).stat().st_size / 1e6, 1)
    return size


def pace(console: str | Path | None, global_batch: int) -> dict:
    """Rate and memory from progress lines: the median time per iteration, the largest memory."""
    if not console:
        return dict(UNKNOWN_PACE)
    lines = LINE.findall(_console(console))
    if not lines:
        raise InputError(f'--console {console}: no line of progress in it')
    times = sorted(float(seconds) for seconds, _ in lines)
    median = max(times[len(times) // 2], 1e-3)  # lines have milliseconds
    memory = max(int(megabytes) for _, megabytes in lines)
    return {'images/s': round(global_batch / median, 1), 'peak memory, MB': memory}
