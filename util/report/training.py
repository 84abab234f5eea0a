"""A record from what a run left behind: log.txt, a checkpoint, what its program printed."""
import hashlib
import json
import re
import shlex
import subprocess
from pathlib import Path

from util import checkpoint, recipes, report, weights
from util.errors import InputError
from util.recipes import cost

LICENCE = 'CC-BY-NC 4.0 where the official weights were the beginning; otherwise as the data'
CLASSES = {'ImageNet-1K': 1000}
NEGATED = {'--cls_token': ('global_pool', False)}
LINE = re.compile(r'time ([\d.]+) s .* mem (\d+) MB')
RESULT = re.compile(r'^loss ([\d.]+)  acc1 ([\d.]+)  acc5 ([\d.]+)', re.M)
HERE = Path(__file__).parent


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
            raise InputError(f'{path}, line {number}: no JSON; a run writes one object an epoch') from None
        if not isinstance(entry, dict) or 'epoch' not in entry or 'train_loss' not in entry:
            raise InputError(f'{path}, line {number}: no epoch or no train_loss in it')
        entries.append(entry)
    if not entries:
        raise InputError(f'{path} is empty: no epoch has ended')
    return entries


def settings_of(recipe: recipes.Recipe) -> dict:
    """What the recipe's flags set, by the names that a checkpoint's `args` have, as text or True or False."""
    words, settings = recipe.flags.split(), {}
    for number, word in enumerate(words):
        if word.startswith('--') and word[2:] not in checkpoint.HARMLESS:
            following = words[number + 1] if number + 1 < len(words) else '--'
            name, value = NEGATED.get(word, (word[2:], True if following.startswith('--') else following))
            settings[name] = value
    return settings


def departures(recipe: recipes.Recipe, flags: dict, effective_batch: int) -> list[str]:
    """Where a run was not the recipe: its effective batch, and any flag that the recipe sets."""
    found = []
    if effective_batch != recipe.effective_batch:
        found.append(f"the effective batch is {effective_batch}, the recipe's {recipe.effective_batch}")
    for name, wanted in settings_of(recipe).items():
        had = flags.get(name)
        same = float(had) == float(wanted) if _is_number(had) and _is_number(wanted) else had == wanted
        if not same:
            found.append(f"--{name} is {had}, the recipe's {wanted}")
    if flags.get('lr') is not None and recipe.flag('--blr'):
        found.append(f"--lr {flags['lr']} overrides the recipe's --blr {recipe.flag('--blr')}")
    return found


def _is_number(value) -> bool:
    try:
        return not isinstance(value, bool) and value is not None and float(value) == float(value)
    except (TypeError, ValueError):
        return False


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
            found.append(f'{figure.metric} {result[figure.metric]:.2f} is outside {low:.2f} to {high:.2f}, the band around '
                         f'{figure}')
    return found


def of_run(recipe: recipes.Recipe, log: str | Path, weight_file: str | Path, console: str | Path | None = None,
           licence: str | None = None) -> dict:
    """The record of a training; `warnings` in it says where it is not what the recipe promises. The result is the last
    epoch's, since choosing the best one would use the validation images to choose. InputError for files of other kinds."""
    entries, state = read_log(log), weights.read(weight_file)
    if not {'model', 'args', 'epoch', 'position'} <= state.keys():
        raise InputError(f'{weight_file} is no checkpoint of a training here: it does not say its flags and epoch')
    flags, effective_batch = state['args'], state['position'].get('effective_batch', 0)
    if flags.get('model') != recipe.model:
        raise InputError(f'{weight_file} is of {flags.get("model")}, and {recipe.name} is about {recipe.model}')
    last = entries[-1]
    result = {'train_loss': last['train_loss']} | {
        name: last[f'test_{name}'] for name in ('acc1', 'acc5', 'loss') if f'test_{name}' in last}
    found = departures(recipe, flags, effective_batch) + gaps(entries, flags.get('epochs', 0)) + outside(recipe, result)
    if state['epoch'] != last['epoch']:
        found.append(f'the checkpoint is of epoch {state["epoch"]}, the log ends with {last["epoch"]}')
    classes = len(state['model'].get('head.bias', state['model'].get('head.1.bias', [])))
    if classes and classes != CLASSES.get(recipe.data, classes):
        found.append(f'{classes} classes; {recipe.data} has {CLASSES[recipe.data]}')
    devices = max(1, effective_batch // (flags['batch_size'] * flags['accum_iter']))
    kept = {name: value for name, value in sorted(flags.items()) if name not in checkpoint.HARMLESS and value is not None}
    hashed = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
    headline = f'{result["acc1"]:.2f} acc1' if 'acc1' in result else f'training loss {result["train_loss"]:.4f}'
    return {
        'claim': f'{recipe.name}: {headline}', 'recipe': recipe.name, 'status': 'measured', 'model': recipe.model,
        'run': _command(recipe.program, kept), 'result': result,
        'published': [str(figure) for figure in recipe.figures],
        'size': _size(state['model'], flags, weight_file),
        'settings': {'commit': commit(), 'config sha256': hashed, 'epochs': len({entry['epoch'] for entry in entries}),
                     'effective batch': effective_batch, 'processes': devices,
                     'precision': flags.get('amp') or ('float16' if state.get('scaler') else 'float32')},
        'environment': report.environment(), 'figures': pace(console, effective_batch // flags['accum_iter']),
        'weights': {'file': Path(weight_file).name, 'sha256': report.sha256(weight_file), 'licence': licence or LICENCE},
        'log': {'file': f'{recipe.name}.log.txt', 'sha256': report.sha256(log)},
        'warnings': found, 'deviations': list(recipe.departures)}


def of_evaluation(recipe: recipes.Recipe, console: str | Path, weight_file: str | Path, licence: str | None = None) -> dict:
    """The record of the original's weights evaluated here, from what main_finetune.py --eval printed."""
    try:
        lines = RESULT.findall(Path(console).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'--console {console}: cannot be read ({error})') from None
    if not lines:
        raise InputError(f'--console {console}: no line `loss ...  acc1 ...  acc5 ...`, which an evaluation prints')
    result = dict(zip(('loss', 'acc1', 'acc5'), map(float, lines[-1])))
    return {
        'claim': f'{recipe.name}: {result["acc1"]:.2f} acc1 with {recipe.checkpoint}', 'recipe': recipe.name,
        'status': 'ported-eval', 'model': recipe.model, 'run': shlex.join(recipes.command(recipe, 1)), 'result': result,
        'published': [str(figure) for figure in recipe.figures], 'settings': {'commit': commit()},
        'environment': report.environment(), 'log': {'file': f'{recipe.name}.log.txt', 'sha256': report.sha256(console)},
        'weights': {'file': Path(weight_file).name, 'sha256': report.sha256(weight_file), 'licence': licence or LICENCE},
        'warnings': outside(recipe, result), 'deviations': list(recipe.departures)}


def _command(program: str, flags: dict) -> str:
    """The program with all its flags but those that change no result, such as the reader's folders."""
    words = ['python', program, '--data_path', 'DATA']
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
    return {'parameters': int(sum(array.size for array in tensors.values())), 'input': f'{side} x {side}',
            **({'GFLOPs an image, forward': round(2 * macs / 1e9, 2)} if macs else {}),
            'file, MB': round(Path(weight_file).stat().st_size / 1e6, 1)}


def pace(console: str | Path | None, joint_batch: int) -> dict:
    """Rate and memory by a program's lines of progress: the median of their times an iteration, the largest memory."""
    if not console:
        return {'images/s': 'not recorded', 'peak memory, MB': 'not recorded'}
    try:
        lines = LINE.findall(Path(console).read_text(encoding='utf-8', errors='replace'))
    except OSError as error:
        raise InputError(f'--console {console}: cannot be read ({error})') from None
    if not lines:
        raise InputError(f'--console {console}: no line of progress in it')
    times = sorted(float(seconds) for seconds, _ in lines)
    return {'images/s': round(joint_batch / max(times[len(times) // 2], 1e-3), 1),
            'peak memory, MB': max(int(memory) for _, memory in lines)}


def commit() -> str:
    """Of the code that makes the report, with `, changed` where files differ from it."""
    def git(*words):
        return subprocess.run(['git', *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git('rev-parse', 'HEAD') + (', changed' if git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown: not a git repository'
