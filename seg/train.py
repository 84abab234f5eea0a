"""Train a segmentor, with the flags of PaddleSeg's tools/train.py.

    python -m paddle.distributed.launch seg/train.py --do_eval --use_vdl --save_dir output \\
        --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml

The loop is engine_loop's, counted in iterations; PaddleSeg makes the model, data sets,
optimizer, schedule and losses, and evaluates.
"""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import contextlib
import copy
import functools
from collections.abc import Callable

import paddle
from paddleseg.core import evaluate
from paddleseg.core.train import loss_computation
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils import init_ema_params, logger, train_profiler, update_ema_model

from engine_loop import Loop
from seg import flags, precision
from seg.batches import Batches, Samples
from seg.checkpoints import AVERAGE, MODEL, NO_RESULT, Folders
from seg.loading import loading
from seg.progress import Lines
from seg.sizes import Sizes, check_evaluation, check_transforms, window_of
from util import amp, checkpoint, cli, log, profiling, program, replicas, seeding
from util.errors import InputError
from util.recorder import Recorder

UNFIXED = 'gradients of interpolation'  # Paddle has no deterministic kernel of these on GPUs


class Objective:
    """The losses of a batch: what the config's `loss` names, or the model's own `loss_computation`.

    losses: {'types': [...], 'coef': [...]}. autocast: makes the context of a forward pass.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        losses: dict,
        autocast: Callable = contextlib.nullcontext,
    ):
        self.model, self.losses = model, losses
        self.autocast = autocast

    def __call__(self, network: paddle.nn.Layer, batch: dict) -> list[paddle.Tensor]:
        """One loss for each map of scores that the network gives."""
        images = batch['img']
        if getattr(self.model, 'data_format', 'NCHW') == 'NHWC':
            images = images.transpose([0, 2, 3, 1])  # [N, height, width, C]
        with self.autocast():
            scores = network(images)
            if hasattr(self.model, 'loss_computation'):
                return self.model.loss_computation(scores, self.losses, batch)
            self._check(scores)
            labels = batch['label'].astype('int64')
            edges = batch['edge'].astype('int64') if 'edge' in batch else None
            return loss_computation(scores, labels, edges, self.losses)

    def _check(self, scores: list) -> None:
        """InputError if maps, losses and coefficients differ in number.

        PaddleSeg does not count the coefficients.
        """
        types, coefficients = len(self.losses['types']), len(self.losses['coef'])
        if len({len(scores), types, coefficients}) > 1:
            raise InputError(
                f'the model gives {len(scores)} maps of scores in training, but loss.types are '
                f'{types} and loss.coef {coefficients}; each map needs one of each'
            )


class Validation:
    """Evaluates models during a training, and keeps the best state of each.

    models: {folder of the best: (model, file of its weights)}. settings: arguments of PaddleSeg's
    evaluate. autocast: makes the context of a forward pass.
    The best results are `saver.kept[folder]`, {'mIoU': ..., 'iter': ...}.
    """

    def __init__(
        self,
        samples: paddle.io.Dataset,
        models: dict,
        settings: dict,
        timeout: float,
        autocast: Callable = contextlib.nullcontext,
    ):
        self.samples = samples
        self.models = models
        self.settings = settings
        self.timeout = timeout
        self.autocast = autocast

    def __call__(self, run: Loop) -> None:
        """Evaluate each model, and write those that are the best so far."""
        for folder, (model, file) in self.models.items():
            replicas.broadcast_buffers(model)
            with run.saver.evaluating(run.progress), loading(self.timeout), self.autocast():
                miou, accuracy, *_ = evaluate(model, self.samples, **self.settings)
            self._keep(run, folder, miou)

            prefix = 'Ema_' if file == AVERAGE else ''
            run.progress.curves('Evaluate', **{f'{prefix}mIoU': miou, f'{prefix}Acc': accuracy})

    def _keep(self, run: Loop, folder: str, miou: float) -> None:
        model, file = self.models[folder]
        best = run.saver.kept[folder]
        if miou > best['mIoU']:
            best = {'mIoU': float(miou), 'iter': run.progress.iteration}
            run.saver.kept[folder] = best
            run.saver.save_best(folder, model, file)
        which = 'EMA model' if file == AVERAGE else 'model'
        logger.info(
            f'[EVAL] The {which} with the best validation mIoU ({best["mIoU"]:.4f}) was saved at '
            f'iter {best["iter"]}.'
        )


def configuration(args) -> Config:
    """The config of --config with the values of --opts and of the flags named like its keys."""
    asked = {
        'lr_scheduler.learning_rate': args.learning_rate,
        'batch_size': args.batch_size,
        'iters': args.iters,
    }
    overrides = [f'{key}={value}' for key, value in asked.items() if value is not None]
    config = flags.configuration(args.config, [*overrides, *(args.opts or [])])
    schedule = config.dic.get('lr_scheduler', {})
    if schedule.get('type') == 'WarmupOverPolynomialDecay':
        # as PaddleSeg does for its own decay
        schedule.setdefault('decay_steps', config.iters)
    return config


def main(args):
    program.start(
        args.device,
        seed=0,
        amp=args.amp,
        deterministic=args.deterministic,
        unfixed=UNFIXED,
    )
    program.make_folder('--save_dir', args.save_dir)
    seeding.seed_step(args.seed, 0, 0)

    # What PaddleSeg builds
    config = configuration(args)
    flags.show(config)
    builder = SegBuilder(config)
    build = functools.partial(flags.build, builder, path=args.config)
    model = build('model')
    data = training_data(args, config, build('train_dataset'), window_of(model))
    optimizer = build('optimizer')
    validated = build('val_dataset') if args.do_eval else None
    losses = build('loss')

    # What the loop needs
    models = {'best_model': (model, MODEL)}
    average = None
    if args.use_ema:
        average = average_of(model)
        models['ema_best_model'] = average, AVERAGE
    step = amp.Step(optimizer, precision=args.amp)
    best = {folder: dict(NO_RESULT) for folder in models}
    saver = Folders(model, step, vars(args), config.iters, average=average, kept=best)
    start = saver.restore(args.resume_model)
    if start >= config.iters and not saver.is_pending(start):
        log.info(f'all {config.iters} iterations are done')
        return
    if args.amp != 'off' and args.amp_level == 'O2':  # after float32 was restored
        model, optimizer = paddle.amp.decorate(
            model, optimizer, level='O2', dtype=args.amp, save_dtype='float32'
        )
    if config.to_static_training:
        model = paddle.jit.to_static(model)
    validate = None
    if validated is not None:
        validate = validation(args, config, validated, models)
    run = loop(args, config, model, step=step, data=data, saver=saver, start=start)
    if start == 0 and average is not None:
        init_ema_params(average, model)  # after all ranks have the weights of the first
    losses_of = Objective(model, losses, precision.caster(args.amp, args.amp_level))
    try:
        train(run, losses_of, validate=validate, options=args.profiler_options)
    finally:
        run.progress.close()


def loop(args, config: Config, model, *, step, data, saver, start: int) -> Loop:
    """The loop of all iterations as one epoch, from `start` on."""
    lines = Lines(
        config.iters,
        args.log_iters,
        batch_size=data.batch_size,
        per_epoch=data.per_epoch,
        save_dir=args.save_dir if args.use_vdl else None,
    )
    return Loop(
        model,
        step,
        data,
        schedule=None,  # the optimizer has PaddleSeg's
        saver=saver,
        recorder=Recorder('', ''),  # Lines keeps PaddleSeg's records
        progress=lines,
        start=checkpoint.Position(samples=start * data.global_batch),
        seed=args.seed,
        profile=profiling.Profile(args.profile, args.save_dir),
    )


def train(run: Loop, losses_of: Objective, *, validate, options: str | None) -> None:
    """Train to the last iteration; save and evaluate whenever that is due.

    options: of PaddleSeg's profiler.
    """
    lines, saver = run.progress, run.saver
    schedule = run.step.optimizer._learning_rate
    by_loss = isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau)

    def loss_of(batch):
        parts = losses_of(run.network, batch)
        run.parts = {f'loss_{number}': part for number, part in enumerate(parts)}
        return sum(parts)

    def after_step():
        if by_loss:
            schedule.step(lines.latest['loss'])
        elif isinstance(schedule, paddle.optimizer.lr.LRScheduler):
            schedule.step()
        if saver.average is not None:
            update_ema_model(saver.average, saver.model, step=lines.iteration)
        train_profiler.add_profiler_step(options)

    for _ in run.epochs():  # one, of all iterations
        while True:
            if saver.is_pending(lines.iteration):
                with lines.paused():
                    saver.save_iteration(lines)
                    if validate:
                        validate(run)
                    saver.complete(lines.iteration)
                saver.stop_if_asked(lines.iteration)
            if lines.iteration >= lines.iterations:
                break
            run.train(
                loss_of,
                iterations=saver.until_due(lines.iteration),
                after_step=after_step,
                every_loss=by_loss,
            )


def training_data(args, config: Config, samples: paddle.io.Dataset, window) -> Batches:
    """The batches of a training; window: the size that the model takes, None for any."""
    check_transforms(config.train_dataset_cfg.get('transforms'), window)
    return Batches(
        Samples(samples, args.seed, args.repeats, Sizes(window, config.batch_size)),
        config.batch_size,
        config.iters,
        args.num_workers,
        args.data_timeout,
    )


def validation(args, config: Config, samples: paddle.io.Dataset, models: dict) -> Validation:
    """What --do_eval does whenever a checkpoint is due."""
    settings = flags.testing(config.test_config, {})
    model, _ = models['best_model']
    check_evaluation(samples, model, settings)
    settings |= {'num_workers': min(args.num_workers, 1)}
    autocast = precision.caster(args.amp, args.amp_level)
    return Validation(samples, models, settings, args.data_timeout, autocast)


def average_of(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """A frozen copy of a model, to hold averages of its weights."""
    average = copy.deepcopy(model)
    average.eval()
    for parameter in average.parameters():
        parameter.stop_gradient = True
    return average


PARSER = cli.parser(__doc__, flags.config, cli.device, flags.workers, flags.data_format)
group = PARSER.add_argument_group('training', 'default: what the config says')
group.add_argument('--iters', type=cli.number(int, 1), default=None, help='iterations in all')
group.add_argument(
    '--batch_size', type=cli.number(int, 1), default=None, help='images per process and iteration'
)
group.add_argument(
    '--learning_rate', type=cli.number(float, 0), default=None, help='peak learning rate'
)
precision.flags(group)
group.add_argument('--seed', type=cli.number(int, 0), default=0, help='seed of everything random')
group.add_argument(
    '--repeats',
    type=cli.number(int, 1),
    default=1,
    help='times that each epoch uses each training image',
)
group.add_argument(
    '--profiler_options',
    default=None,
    metavar='OPTIONS',
    help="options of PaddleSeg's profiler, such as "
    '"batch_range=[10,20];profile_path=model.profile"',
)
profiling.flag(group)
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
    '--resume_model',
    default=None,
    metavar='DIR',
    help='a checkpoint iter_N to resume; `auto`: the newest intact one in --save_dir, if any',
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
    help='checkpoints to keep; 0: all',
)
group.add_argument(
    '--log_iters', type=cli.number(int, 1), default=10, help='iterations between log lines'
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
