"""Steps of a recipe with growing batches, in a process of its own.

    python -m gpu.steps '{"settings": ..., "recipe": NAME, "out": FILE}'

FILE receives a line of JSON for each batch that was tried: seconds a step and peak memory, or that
it does not fit. Model, optimizer and engine are those of the recipe's program and flags; the images
are random. On a GPU the precision is the default, float16.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import gc
import json
import sys
import time
from statistics import median

import numpy as np
import paddle
import paddle_steps

import engine_finetune
import engine_pretrain
import main_finetune
import main_pretrain
import models_zoo
import recipes
from engine_loop import Run
from gpu import workloads
from gpu.report import Settings, one_line
from util import optim, program, progress

WARM, TIMED = 2, 3  # steps
LONGEST = 90.0  # seconds, after which no larger batch is tried
# Models and sides in place of a recipe's, for tiny sizes
NANO = {
    'mae_vit_base_patch16': ('mae_vit_nano_patch4', 32),
    'vit_base_patch16': ('vit_nano_patch4', 32),
    'mae_swin_tiny_256': ('mae_swin_nano_32', 32),
}
TINY_CONFIG = 'seg/configs/upernet_mae/upernet_mae_tiny.yml'


class Repeated(paddle_steps.Repeated):
    """One batch again and again; also one that is a dict."""

    def __init__(self, batch, count: int, images: int):
        self.batch, self.count, self.seconds = batch, count, []
        self.samples = range(images)
        self.global_batch = self.effective_batch = images


def flags_of(recipe: recipes.Recipe, parser, tiny: bool):
    """The flags of a recipe's command, without files."""
    words = recipes.command(recipe)
    words = words[words.index(recipe.program) + 1 :]
    more = ['--output_dir=', '--log_dir=', '--print_freq', '1000000']
    args = parser.parse_args([*words, *more])
    if tiny:
        args.model, args.input_size = NANO[recipe.model]
        args.token_size = None
    return args


class Pretrain:
    """A recipe of main_pretrain.py."""

    def __init__(self, recipe: recipes.Recipe, tiny: bool):
        self.args = flags_of(recipe, main_pretrain.PARSER, tiny)
        self.model = main_pretrain.autoencoder(self.args)
        self.draw = main_pretrain.sampler(self.args, self.model)
        groups = optim.decay_groups(self.model, self.args.weight_decay)
        self.optimizer = optim.adamw(groups, self.args.beta2)

    def batch(self, images: int):
        """Images and masks."""
        noise = [self.draw(np.random.default_rng(number)) for number in range(images)]
        return random_images(images, self.args.input_size), paddle.to_tensor(np.stack(noise))

    def epoch(self, run: Run) -> dict:
        """The engine's steps."""
        return engine_pretrain.train_one_epoch(run, self.args.mask_ratio)


class Finetune:
    """A recipe of main_finetune.py."""

    def __init__(self, recipe: recipes.Recipe, tiny: bool):
        self.args = flags_of(recipe, main_finetune.PARSER, tiny)
        self.model = models_zoo.classifier(
            self.args.model,
            img_size=self.args.input_size,
            num_classes=self.args.nb_classes,
            drop_path_rate=self.args.drop_path,
            global_pool=self.args.global_pool,
        )
        self.mix = main_finetune.mixup(self.args)
        groups = optim.layer_decay_groups(self.model, self.args.weight_decay, self.args.layer_decay)
        self.optimizer = optim.adamw(groups, self.args.beta2)

    def batch(self, images: int):
        """Images and labels."""
        labels = np.random.default_rng(1).integers(0, self.args.nb_classes, images)
        return random_images(images, self.args.input_size), paddle.to_tensor(labels)

    def epoch(self, run: Run) -> dict:
        """The engine's steps."""
        return engine_finetune.train_one_epoch(run, self.mix)


class Segment:
    """A recipe of seg/train.py, in float16 on a GPU as --precision fp16."""

    def __init__(self, recipe: recipes.Recipe, tiny: bool):
        config = TINY_CONFIG if tiny else recipe.flag('--config')
        name = config.rpartition('/')[2].removesuffix('.yml')
        self.side = 32 if tiny else 512
        made = workloads.segment(workloads.Kind(workloads.segment, name, self.side))
        self.model, self.optimizer, self.epoch = made.model, made.optimizer, made.epoch
        words = '--data_path= --output_dir= --log_dir= --print_freq 1000000'.split()
        self.args = main_pretrain.PARSER.parse_args(words)
        self.args.model = recipe.model

    def batch(self, images: int):
        """Images and label maps."""
        shape = [images, self.side, self.side]
        labels = paddle.to_tensor(np.random.default_rng(1).integers(0, 10, shape))
        return {'img': random_images(images, self.side), 'label': labels}


PROGRAMS = {
    'main_pretrain.py': Pretrain,
    'main_finetune.py': Finetune,
    'seg/train.py': Segment,
}


def random_images(images: int, side: int) -> paddle.Tensor:
    """Random images [N, 3, side, side]."""
    rng = np.random.default_rng(0)
    return paddle.to_tensor(rng.standard_normal([images, 3, side, side], dtype='float32'))


def measure(training, images: int, settings: Settings) -> dict:
    """Seconds a step, peak memory in MB, and the loss, with so many images."""
    settings.spend_memory()
    if settings.device == 'gpu':
        paddle.device.cuda.empty_cache()
        paddle.device.cuda.reset_max_memory_allocated()
    data = Repeated(training.batch(images), WARM + TIMED, images)
    training.args.epochs = 1
    run = Run(training.model, training.optimizer, data, training.args)
    next(run.epochs())
    loss = training.epoch(run)['loss']
    seconds = median(data.seconds[WARM:])
    return {'seconds': seconds, 'memory': progress.peak_memory(), 'loss': loss}


def is_memory(error: Exception) -> bool:
    """Whether the device's memory did not suffice."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or 'out of memory' in text or 'exhausted' in text


def grow(first: int, most: int, attempt) -> None:
    """Call attempt(images) -> whether it fits, with doubled batches until one does not fit.

    Where the first does not fit, batches are halved down to one image. In the end the batch
    between the largest that fits and the smallest that does not is tried.
    """
    begun = time.monotonic()
    images = first
    while images and not attempt(images):
        images //= 2
    if images != first:
        return
    while 2 * images <= most and time.monotonic() - begun < LONGEST:
        if not attempt(2 * images):
            attempt(images + images // 2)
            return
        images *= 2


def main(asked: dict) -> None:
    settings = Settings(**asked['settings'])
    recipe = recipes.find(asked['recipe'])
    program.start(settings.flag, seed=0)
    training = PROGRAMS[recipe.program](recipe, settings.tiny)

    def attempt(images: int) -> bool:
        try:
            found = measure(training, images, settings)
        except Exception as error:
            if not is_memory(error):
                raise
            found = {'full': one_line(error)}
        gc.collect()
        with open(asked['out'], 'a', encoding='utf-8') as file:
            file.write(json.dumps({'images': images, **found}) + '\n')
        return 'full' not in found

    first = 2 if settings.tiny else recipe.batch_size
    grow(first, 2 * first if settings.device == 'cpu' else 64 * first, attempt)


if __name__ == '__main__':
    main(json.loads(sys.argv[1]))
