"""Train a segmentor, with the flags of PaddleSeg's tools/train.py.

    python -m paddle.distributed.launch seg/train.py --do_eval --use_vdl --save_dir output \\
        --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml

The loop is paddleseg.core.train. Each sample is seeded from (seed, epoch, index) and each iteration
from (seed, iteration, rank), so a resumed run draws the same numbers as an uninterrupted one.
"""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import contextlib
import functools
import itertools
import random

import numpy as np
import paddle
from paddleseg.cvlibs import Config, SegBuilder

from seg import census, flags
from seg.checkpoints import Checkpoints, loop, resumable
from seg.loading import loading, replaced
from seg.sizes import Sizes, check_evaluation, check_transforms, naming, refused, window_of
from util import cli, dist, program, seeding
from util.data import loader
from util.errors import InputError


class Samples(paddle.io.Dataset):
    """A data set of PaddleSeg by (epoch, index); random generators are seeded for each sample."""

    def __init__(
        self, samples: paddle.io.Dataset, seed: int, repeats: int = 1, sizes: Sizes | None = None
    ):
        self.samples, self.seed, self.repeats, self.sizes = samples, seed, repeats, sizes

    def __len__(self) -> int:
        return len(self.samples) * self.repeats

    def __getitem__(self, key: tuple[int, int]) -> dict:
        words = np.random.SeedSequence([self.seed, *key]).generate_state(2)
        np.random.seed(words[0])
        random.seed(int(words[1]))
        index = key[1] % len(self.samples)
        try:
            sample = self.samples[index]
        except InputError:
            raise
        except ValueError as error:
            raise refused(self.samples, index, error) from error
        if self.sizes:
            self.sizes.check(self.samples, index, sample)
        return sample


class Stream(paddle.io.BatchSampler):
    """This rank's batches from a given iteration of the run on, epoch after epoch, endlessly."""

    def __init__(self, samples: Samples, batch_size: int, start: int):
        self.samples, self.batch_size, self.start = samples, batch_size, start
        if not len(self):
            raise InputError(
                f'batch_size {batch_size} on {dist.world_size()} processes is more than the '
                f'{len(samples)} training images'
            )

    def _order(self, epoch: int, first: int = 0) -> loader.Order:
        return loader.Order(
            samples=len(self.samples),
            batch_size=self.batch_size,
            seed=self.samples.seed,
            epoch=epoch,
            rank=dist.rank(),
            world_size=dist.world_size(),
            first=first,
        )

    def __len__(self) -> int:
        return len(self._order(0))

    def __iter__(self):
        epoch, first = divmod(self.start, len(self))
        for later in itertools.count(epoch):
            yield from self._order(later, first if later == epoch else 0)


@contextlib.contextmanager
def in_order(stream: Stream, kept: Checkpoints):
    """Let paddleseg.core.train take its batches from the stream.

    Its own sampler would start again at the first batch after an interruption.
    """
    sampler, loader = paddle.io.DistributedBatchSampler, paddle.io.DataLoader

    def our_sampler(samples, batch_size, **kwargs):
        return stream if samples is stream.samples else sampler(samples, batch_size, **kwargs)

    def our_loader(samples, **kwargs):
        batches = loader(samples, **kwargs)
        if samples is not stream.samples:
            return batches
        epoch = min(len(stream), kept.iters - kept.start)
        return kept.following(census.watch(batches, samples.samples, epoch))

    with replaced(paddle.io, DistributedBatchSampler=our_sampler, DataLoader=our_loader):
        yield


def belong_together(scores: list, losses: dict) -> None:
    """InputError where the numbers of scores, losses and coefficients differ.

    PaddleSeg's own check, which this replaces, does not count the coefficients.
    """
    counts = len(scores), len(losses['types']), len(losses['coef'])
    if len(set(counts)) > 1:
        raise InputError(
            'the model gives {} maps of scores in training, but loss.types are {} and '
            'loss.coef {}; each map needs one of both'.format(*counts)
        )


@contextlib.contextmanager
def adapted(stream: Stream, kept: Checkpoints, data_timeout: float):
    """Let paddleseg.core.train load, save, stop and check as this program needs it."""
    with (
        loading(data_timeout),
        in_order(stream, kept),
        kept.kept(),
        replaced(loop, check_logits_losses=belong_together),
        # it would print a line for each layer, and does not count attention
        replaced(paddle, flops=lambda *args, **kwargs: None),
    ):
        yield


def seed_iterations(network: paddle.nn.Layer, schedule: paddle.optimizer.lr.LRScheduler, seed: int):
    """Seed each training iteration before its forward pass; the schedule counts iterations."""

    def seed_iteration(layer, images):
        if layer.training:
            seeding.seed_step(seed, 0, schedule.last_epoch)

    network.register_forward_pre_hook(seed_iteration)


def configuration(args) -> Config:
    """The config of --config with the values of --opts and of the flags named like its keys."""
    asked = {
        'lr_scheduler.learning_rate': args.learning_rate,
        'batch_size': args.batch_size,
        'iters': args.iters,
    }
    overrides = [f'{key}={value}' for key, value in asked.items() if value is not None]
    return flags.configuration(args.config, [*overrides, *(args.opts or [])])


def main(args):
    program.start(args.device, seed=0)
    if args.precision == 'fp16' and paddle.get_device() == 'cpu':
        raise InputError('--precision fp16: Paddle has no float16 on CPUs')
    program.make_folder('--save_dir', args.save_dir)
    seeding.seed_step(args.seed, 0, 0)

    config = configuration(args)
    flags.show(config)
    builder = SegBuilder(config)
    build = functools.partial(flags.build, builder, path=args.config)
    network = build('model')
    window = window_of(network)
    sizes = Sizes(window, config.batch_size)
    samples = Samples(build('train_dataset'), args.seed, args.repeats, sizes)
    check_transforms(config.train_dataset_cfg.get('transforms'), window)
    start = resumable(network, args.resume_model, args.use_ema)
    if config.iters <= start:
        raise InputError(
            f'--iters {config.iters} is not beyond the {start} iterations of --resume_model '
            f'{args.resume_model}'
        )
    stream = Stream(samples, config.batch_size, start)
    optimizer = build('optimizer')
    seed_iterations(network, builder.lr_scheduler, args.seed)
    test_config = flags.testing(config.test_config, {})
    validation = build('val_dataset') if args.do_eval else None
    check_evaluation(validation, network, test_config)
    losses = build('loss')
    keep, resumed = args.keep_checkpoint_max, args.resume_model
    kept = Checkpoints(
        network, optimizer, args.save_dir, keep, resumed, start=start, iters=config.iters
    )

    with adapted(stream, kept, args.data_timeout), naming(validation):
        loop.train(
            network,
            samples,
            validation,
            optimizer,
            save_dir=args.save_dir,
            iters=config.iters,
            batch_size=config.batch_size,
            resume_model=resumed,
            save_interval=args.save_interval,
            log_iters=args.log_iters,
            num_workers=args.num_workers,
            use_vdl=args.use_vdl,
            use_ema=args.use_ema,
            losses=losses,
            keep_checkpoint_max=keep,
            test_config=test_config,
            precision=args.precision,
            amp_level=args.amp_level,
            profiler_options=args.profiler_options,
            to_static_training=config.to_static_training,
        )


PARSER = cli.parser(__doc__, flags.config, cli.device, flags.workers, flags.data_format)
group = PARSER.add_argument_group('training', 'default: what the config says')
group.add_argument('--iters', type=cli.number(int, 1), default=None, help='iterations in all')
group.add_argument(
    '--batch_size', type=cli.number(int, 1), default=None, help='images a process and iteration'
)
group.add_argument(
    '--learning_rate', type=cli.number(float, 0), default=None, help='the largest rate'
)
group.add_argument(
    '--precision', choices=['fp32', 'fp16'], default='fp32', help='fp16: mixed precision, on GPUs'
)
group.add_argument(
    '--amp_level',
    choices=['O1', 'O2'],
    default='O1',
    help='O2: pure float16 but for a few operators',
)
group.add_argument('--seed', type=cli.number(int, 0), default=0, help='seed of everything random')
group.add_argument(
    '--repeats',
    type=cli.number(int, 1),
    default=1,
    help='take each training image so many times an epoch',
)
group.add_argument(
    '--profiler_options',
    default=None,
    metavar='OPTIONS',
    help="options of PaddleSeg's profiler, such as "
    '"batch_range=[10,20];profile_path=model.profile"',
)
group = PARSER.add_argument_group('evaluation and records')
group.add_argument(
    '--do_eval',
    action='store_true',
    help='evaluate whenever a checkpoint is saved, and keep the best',
)
group.add_argument(
    '--save_dir', default='./output', metavar='DIR', help='checkpoints iter_N and best_model'
)
group.add_argument(
    '--resume_model', default=None, metavar='DIR', help='checkpoint iter_N to resume'
)
group.add_argument(
    '--save_interval',
    type=cli.number(int, 1),
    default=1000,
    help='iterations between two checkpoints',
)
group.add_argument(
    '--keep_checkpoint_max',
    type=cli.number(int, 0),
    default=5,
    help='checkpoints that stay; 0: all',
)
group.add_argument(
    '--log_iters', type=cli.number(int, 1), default=10, help='iterations between two lines'
)
group.add_argument('--use_vdl', action='store_true', help='VisualDL records in save_dir')
group.add_argument(
    '--use_ema',
    action='store_true',
    help='also keep and evaluate an average of the weights (to begin from the average in a '
    'pre-trained file, set pretrained_ema beside pretrained in the config)',
)

if __name__ == '__main__':
    program.run(main, PARSER)
