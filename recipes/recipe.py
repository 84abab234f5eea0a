"""A recipe's data, and the command made from it."""

import shlex
from dataclasses import dataclass

from util.errors import InputError

LAUNCH = ['python', '-m', 'paddle.distributed.launch']
ACCUMULATING = ('main_pretrain.py', 'main_finetune.py', 'main_linprobe.py')
# Programs whose steps have one batch on each device, and how it is given
UNACCUMULATED = {
    'seg/train.py': ('--batch_size', '{}'),
    'det/train.py': ('-o', 'TrainReader.batch_size={}'),
}

# Half the width of the band in which a rerun is normal, in percentage points, for figures whose
# spread was not published. Five runs of the same ViT-B fine-tuning lie within 0.3 (paper 83.6,
# rerun 83.57, mmselfsup 83.5, earlier Paddle ports 83.48 and 83.34); linear probes of it lie
# within 1 (67.1 to 68.08).
BAND = 0.3
BANDS = {'main_linprobe.py': 1.0, 'seg/train.py': 0.5, 'det/train.py': 0.5}
EVALUATION = 0.1  # third parties measure the official files up to 0.08 away from the authors
IMAGES = {  # in the training set
    'ImageNet-1K': 1_281_167,
    'ADE20K': 20_210,
    'COCO': 118_287,
    'iNaturalist 2017': 579_184,
    'iNaturalist 2018': 437_513,
    'iNaturalist 2019': 265_213,
    'Places205': 2_448_873,
    'Places365': 1_803_460,
}


@dataclass(frozen=True)
class Figure:
    """A published result.

    spread: standard deviation over `seeds` runs, None where it was not published.
    """

    value: float
    by: str
    metric: str = 'acc1'
    spread: float | None = None
    seeds: int = 1

    def __str__(self) -> str:
        value = str(self.value)
        if self.spread is not None:
            value += f' ± {self.spread:g}'
        by = self.by
        if self.seeds > 1:
            by += f', {self.seeds} seeds'
        return f'{value} {self.metric} ({by})'


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published run.

    program: the program here that runs it; None where there is none.
    figures: the published results; the first one is the one to expect.
    devices, batch_size, accum_iter: their product is the effective batch. accum_iter is 0 where
        no effective batch has to be kept (an evaluation).
    checkpoint: the file, or the name of the recipe, whose weights the run starts from.
    file: published weights that can replace the result of that recipe.
    hours, hardware: duration of the published run on its devices.
    departures: how our program differs from the published run.
    """

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
        """Images in one optimizer step; 0 where none has to be kept."""
        return self.batch_size * self.accum_iter * self.devices

    @property
    def device_hours(self) -> float | None:
        """Published hours, summed over all devices; None where they were not published."""
        return None if self.hours is None else self.hours * self.devices

    @property
    def accumulates(self) -> bool:
        """Whether gradient accumulation can make up for fewer devices."""
        return self.program in ACCUMULATING and self.accum_iter > 0

    @property
    def evaluates(self) -> bool:
        """Whether the run evaluates given weights and trains nothing."""
        if self.program == 'det/train.py':
            return False  # its --eval evaluates while it trains
        return '--eval' in self.flags.split() or self.program == 'seg/val.py'

    def flag(self, name: str, default: str = '') -> str:
        """The value of a flag in `flags`, or `default` where the flag is missing."""
        words = self.flags.split()
        return words[words.index(name) + 1] if name in words else default

    def band(self, figure: Figure) -> tuple[float, float]:
        """The lowest and highest value of a rerun that agrees with the figure.

        Two published deviations to each side, or the program's band where that is wider.
        """
        if self.evaluates:
            width = EVALUATION
        else:
            usual = BANDS.get(self.program, BAND)
            published = 2 * (figure.spread or 0)
            width = max(published, usual)
        return figure.value - width, figure.value + width


def command(
    recipe: Recipe, devices: int | None = None, batch_size: int | None = None, machine: int = 8
) -> list[str]:
    """The words of the command that runs a recipe with its published effective batch.

    devices: GPUs in total, `machine` of them in one machine. batch_size: images per device and
    iteration. Both default to the published numbers. On several machines the command is the first
    machine's; the others need another --rank. Raises InputError where the effective batch cannot
    be kept, or where no program here runs the recipe.
    """
    if recipe.program is None:
        raise InputError(
            f'{recipe.name} has no command: no program here runs it; its source is {recipe.source}'
        )
    devices = devices or recipe.devices
    words = [*_launcher(recipe, devices, machine), recipe.program]
    if recipe.program.startswith('main_'):
        words += ['--data_path', 'DATA', *_start(recipe), '--model', recipe.model]
    words += _batch(recipe, devices, batch_size)
    return words + shlex.split(recipe.flags)


def _launcher(recipe: Recipe, devices: int, machine: int) -> list[str]:
    """The words before the program's name."""
    if devices == 1:
        return ['python']
    if recipe.program.startswith('demo/'):
        raise InputError(f'{recipe.name} runs on one CPU; leave out --devices')
    if devices <= machine:
        numbers = ','.join(map(str, range(devices)))
        return [*LAUNCH, '--gpus', numbers]
    machines, left_over = divmod(devices, machine)
    if left_over:
        raise InputError(
            f'{recipe.name}: {devices} devices do not fill machines of {machine}; '
            'give --per_machine'
        )
    place = f'--nnodes {machines} --master FIRST_IP:8765 --host OWN_IP --rank 0'
    return [*LAUNCH, *place.split()]


def _start(recipe: Recipe) -> list[str]:
    """The flag that names the weights, where the run starts from some."""
    if not recipe.checkpoint:
        return []
    flag = '--resume' if recipe.evaluates else '--finetune'
    return [flag, 'CHECKPOINT']


def _batch(recipe: Recipe, devices: int, batch_size: int | None) -> list[str]:
    """The flags that keep the effective batch, and those of an evaluation's batch."""
    if recipe.program in UNACCUMULATED:
        return _whole_batch(recipe, devices, batch_size)
    if not recipe.batch_size:
        return []
    per_device = batch_size or recipe.batch_size
    words = ['--batch_size', str(per_device)]
    if recipe.accumulates:
        accum_iter = _accum_iter(recipe, devices, per_device)
        if accum_iter > 1:
            words += ['--accum_iter', str(accum_iter)]
    elif devices > 1:
        words.append('--dist_eval')
    return words


def _accum_iter(recipe: Recipe, devices: int, batch_size: int) -> int:
    """Iterations in one optimizer step that keep the effective batch."""
    global_batch = devices * batch_size
    accum_iter, left_over = divmod(recipe.effective_batch, global_batch)
    if left_over:
        raise InputError(
            f'{recipe.name}: its effective batch {recipe.effective_batch} is no multiple of '
            f'{devices} devices x --batch_size {batch_size}; choose numbers that divide it'
        )
    return accum_iter


def _whole_batch(recipe: Recipe, devices: int, batch_size: int | None) -> list[str]:
    """The batch per device of a program that does not accumulate gradients."""
    per_device, left_over = divmod(recipe.effective_batch, devices)
    if left_over or batch_size not in (None, per_device):
        asked = f'--batch_size {batch_size} on ' if batch_size else ''
        raise InputError(
            f'{recipe.name}: {asked}{devices} devices cannot make the effective batch '
            f'{recipe.effective_batch}; {recipe.program} does not accumulate gradients'
        )
    if per_device == recipe.batch_size:
        return []
    return [part.format(per_device) for part in UNACCUMULATED[recipe.program]]


def wrapped(words: list[str], width: int = 125, indent: str = '') -> str:
    """The command as lines of a shell, as a README shows it."""
    # a flag and its value stay together
    pieces = []
    for word in map(shlex.quote, words):
        last = pieces[-1] if pieces else ''
        lacks_value = last.startswith('-') and ' ' not in last
        if lacks_value and not word.startswith('--'):
            pieces[-1] += f' {word}'
        else:
            pieces.append(word)

    lines = []
    line = indent
    for piece in pieces:
        length = len(line) + len(piece) + 3  # with the blank, the backslash and the line's end
        if length > width:
            lines.append(line + '\\')
            line = indent + '    '
        line += piece + ' '
    lines.append(line.rstrip())
    return '\n'.join(lines)
