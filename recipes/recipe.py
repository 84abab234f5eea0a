"""What a recipe is, and the command that it makes."""

import shlex
from dataclasses import dataclass

from util.errors import InputError

LAUNCH = ['python', '-m', 'paddle.distributed.launch']
MASTER = 'FIRST_MACHINE:8765'
# Percentage points around a figure without a published spread. Five runs of the same ViT-B (paper 83.6, rerun 83.57,
# mmselfsup 83.5, earlier Paddle ports 83.48 and 83.34) lie within 0.3; linear probes of it (67.1 to 68.08) within 1.
BANDS = {'main_linprobe.py': 1.0, 'seg/train.py': 0.5}
# third parties find up to 0.08 more or less than the authors in the official files
BAND, EVALUATION = 0.3, 0.1
IMAGES = {'ImageNet-1K': 1_281_167, 'ADE20K': 20_210}  # of the training sets


@dataclass(frozen=True)
class Figure:
    """A published result. `spread` is the standard deviation over `seeds` runs, None where it was not published."""

    value: float
    by: str
    metric: str = 'acc1'
    spread: float | None = None
    seeds: int = 1

    def __str__(self) -> str:
        spread = '' if self.spread is None else f' ± {self.spread:g}'
        return f'{self.value}{spread} {self.metric} ({self.by}{f", {self.seeds} seeds" if self.seeds > 1 else ""})'


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published run. program: None where none of ours runs it. Its batch is batch_size x accum_iter x devices; without
    accum_iter it has none that must be kept (an evaluation). The first of the figures is the one to expect. checkpoint: a
    file or the name of the recipe that it begins from, file: published weights that do as well. hours: of the published run
    on its devices. departures: where our program does otherwise than the published run."""

    name: str
    model: str
    source: str
    program: str | None = None
    figures: tuple[Figure, ...] = ()
    devices: int = 1
    batch_size: int = 0
    accum_iter: int = 0
    flags: str = ''
    checkpoint: str = ''
    file: str = ''
    hours: float | None = None
    hardware: str = ''
    data: str = 'ImageNet-1K'
    departures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def effective_batch(self) -> int:
        return self.batch_size * self.accum_iter * self.devices

    @property
    def device_hours(self) -> float | None:
        return None if self.hours is None else self.hours * self.devices

    @property
    def accumulates(self) -> bool:
        return (
            self.program in ('main_pretrain.py', 'main_finetune.py', 'main_linprobe.py')
            and self.accum_iter > 0
        )

    @property
    def evaluates(self) -> bool:
        return '--eval' in self.flags.split() or self.program == 'seg/val.py'

    def flag(self, name: str, default: str = '') -> str:
        """What follows a flag in `flags`."""
        words = self.flags.split()
        return words[words.index(name) + 1] if name in words else default

    def band(self, figure: Figure) -> tuple[float, float]:
        """Between which values a rerun is in order: two published deviations, or its program's band if that is wider."""
        width = (
            EVALUATION
            if self.evaluates
            else max(2 * (figure.spread or 0), BANDS.get(self.program, BAND))
        )
        return figure.value - width, figure.value + width


def command(
    recipe: Recipe, devices: int | None = None, batch_size: int | None = None, machine: int = 8
) -> list[str]:
    """The words of the command on so many devices, `machine` of them in one machine, with the published effective batch.

    batch_size: images a device and iteration, default the published one. InputError where the effective batch cannot be
    kept, or nothing here runs the recipe. On several machines the line is the first one's; on the others --rank differs.
    """
    if recipe.program is None:
        raise InputError(f'{recipe.name} is taken over: nothing here runs it (see {recipe.source})')
    devices = devices or recipe.devices
    words = [*_launcher(recipe, devices, machine), recipe.program]
    if recipe.program.startswith('main_'):
        words += ['--data_path', 'DATA', *_begin(recipe), '--model', recipe.model]
    if recipe.accumulates:
        accum_iter = _accum_iter(recipe, devices, batch_size or recipe.batch_size)
        words += ['--batch_size', str(batch_size or recipe.batch_size)]
        words += ['--accum_iter', str(accum_iter)] if accum_iter > 1 else []
    elif recipe.program == 'seg/train.py':
        words += _of_segmentor(recipe, devices, batch_size)
    elif recipe.batch_size:
        words += ['--batch_size', str(batch_size or recipe.batch_size)]
        words += ['--dist_eval'] if devices > 1 else []
    return words + shlex.split(recipe.flags)


def _launcher(recipe: Recipe, devices: int, machine: int) -> list[str]:
    if devices == 1:
        return ['python']
    if recipe.program.startswith('demo/'):
        raise InputError(f'{recipe.name} runs on one CPU; leave out --devices')
    if devices <= machine:
        return [*LAUNCH, '--gpus', ','.join(map(str, range(devices)))]
    if devices % machine:
        raise InputError(
            f'{recipe.name}: {devices} devices do not fill machines of {machine}; give --per_machine'
        )
    return [*LAUNCH, '--nnodes', str(devices // machine), '--master', MASTER, '--rank', '0']


def _begin(recipe: Recipe) -> list[str]:
    if not recipe.checkpoint:
        return []
    return ['--resume' if recipe.evaluates else '--finetune', 'CHECKPOINT']


def _accum_iter(recipe: Recipe, devices: int, batch_size: int) -> int:
    """Iterations an optimizer step that keep the effective batch."""
    global_batch = devices * batch_size
    if recipe.effective_batch % global_batch:
        raise InputError(
            f'{recipe.name}: its effective batch {recipe.effective_batch} is no multiple of {devices} devices '
            f'x --batch_size {batch_size}; choose numbers that divide it'
        )
    return recipe.effective_batch // global_batch


def _of_segmentor(recipe: Recipe, devices: int, batch_size: int | None) -> list[str]:
    """PaddleSeg does not accumulate gradients: the batch of a device makes up for their number."""
    share = recipe.effective_batch // devices
    if share * devices != recipe.effective_batch or batch_size not in (None, share):
        each = f'--batch_size {batch_size} on ' if batch_size else ''
        raise InputError(
            f'{recipe.name}: {each}{devices} devices cannot make the effective batch {recipe.effective_batch}; '
            'PaddleSeg does not accumulate gradients'
        )
    return [] if share == recipe.batch_size else ['--batch_size', str(share)]


def wrapped(words: list[str], width: int = 125, indent: str = '') -> str:
    """The command over several lines of a shell, as a README has it."""
    pieces = []  # a flag and its value stay together
    for word in map(shlex.quote, words):
        if (
            pieces
            and pieces[-1].startswith('-')
            and ' ' not in pieces[-1]
            and not word.startswith('--')
        ):
            pieces[-1] += ' ' + word
        else:
            pieces.append(word)
    lines, line = [], indent
    for piece in pieces:
        if len(line) + len(piece) + 3 > width:
            lines.append(line + '\\')
            line = indent + '    '
        line += piece + ' '
    return '\n'.join([*lines, line.rstrip()])
