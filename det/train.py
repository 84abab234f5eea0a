"""Train a detector, with the flags of PaddleDetection's tools/train.py.

    python -m paddle.distributed.launch det/train.py --eval \\
        -c det/configs/gfl_um_mae/gfl_um_mae_swin_tiny_25e_coco.yml

The loop is engine_loop's; PaddleDetection reads nothing and trains nothing here, but its registry
makes the model of a config. Checkpoints go to save_dir, in a folder named as the config file.
"""

import det  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import argparse
import re
from pathlib import Path

from det import config, evaluation, flags, inference, metrics, optimizer, schedule
from det.batches import TrainLoader
from det.checkpoints import Categories, Snapshots
from engine_loop import Run
from util import cli, log, parallel_flags, profiling, program, replicas
from util.errors import InputError

# Keys of a config that change no result: a training may be resumed with others without a warning
HARMLESS = re.compile(
    r'^(Eval|Test)|\.(dataset_dir|image_dir|anno_path|pretrained)$'
    r'|^(log_iter|save_dir|snapshot_epoch|weights|worker_num)$'
)

# What is computed by kernels that are not deterministic on GPUs, whatever the flags
UNFIXED = 'gradients of interpolation and RoIAlign'


def main(args):
    values = config.load(args.config, args.opt)
    folder = str(Path(values.get('save_dir', 'output')) / Path(args.config).stem)
    log_dir = args.vdl_log_dir if args.use_vdl else ''
    program.start(
        args.device,
        args.seed,
        folder,
        log_dir,
        amp=args.amp,
        deterministic=args.deterministic,
        unfixed=UNFIXED,
    )

    # Pictures, model and optimizer
    samples, batch_size = flags.samples(values, 'Train', args.seed)
    check_classes(values, samples.dataset)
    model = config.build(values, args.config)
    if values.get('pretrain_weights'):
        raise InputError(
            'pretrain_weights: name the file in the backbone, such as '
            '-o MAESwin.pretrained=FILE; it is read by models_zoo.start_from'
        )
    data = TrainLoader(
        samples,
        batch_size=batch_size,
        num_workers=values['worker_num'],
        timeout=args.data_timeout,
    )
    rates = schedule.build(config.section(values, 'LearningRate'), len(data), values['epoch'])
    made, clip_grad = optimizer.build(config.section(values, 'OptimizerBuilder'), model)
    validated = None
    if args.eval:
        validated = flags.samples(values, 'Eval')
        evaluation.check_masks(model, validated[0].dataset)

    # The loop
    kept = {'categories': Categories(samples.dataset), 'best': {}}
    run = Run(
        model,
        made,
        data,
        settings(args, values, folder, log_dir),
        schedule=rates,
        clip_grad=clip_grad,
        kept=kept,
        saver=Snapshots,
    )
    for epoch in run.epochs():
        stats = train_one_epoch(run)
        record = {f'train_{name}': value for name, value in stats.items()}
        names = []
        if validated and run.saver.is_due(epoch):
            figures = validate(run, model, validated, values, args)
            names = keep_best(run, epoch, figures)
            record |= evaluation.flat(figures)
        run.finish_epoch(epoch, record | {'epoch': epoch}, *names)


def check_classes(values: dict, dataset) -> None:
    """InputError where num_classes of the config is not the number of the data set's classes."""
    found = len(dataset.classes)
    if values['num_classes'] != found:
        raise InputError(
            f'num_classes is {values["num_classes"]}, but TrainDataset has {found} categories: '
            f'{", ".join(dataset.classes[:5])}{" ..." if found > 5 else ""}; '
            f'add -o num_classes={found}'
        )


def settings(args, values: dict, folder: str, log_dir: str) -> argparse.Namespace:
    """What engine_loop.Run reads, and what a checkpoint records: flags and the config's values."""
    recorded = {key: value for key, value in flatten(values) if not HARMLESS.search(key)}
    return argparse.Namespace(
        **recorded,
        model=values['architecture'],
        resume=args.resume or '',
        start_epoch=0,
        output_dir=folder,
        log_dir=log_dir,
        epochs=values['epoch'],
        accum_iter=1,
        amp=args.amp,
        print_freq=values['log_iter'],
        seed=args.seed,
        save_every=values['snapshot_epoch'],
        save_every_iters=args.save_every_iters,
        keep=args.keep,
        profile=args.profile,
        shard_optimizer=args.shard_optimizer,
    )


def flatten(values: dict, prefix: str = ''):
    """(key, value) for each value of a config that is no dict; keys such as GFL.neck."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def train_one_epoch(run: Run) -> dict[str, float]:
    """Train on the rest of an epoch; the mean losses and the rate."""

    def loss_of(batch):
        with run.step.autocast():
            losses = run.network(batch)
        run.parts = losses
        return sum(losses.values())

    return run.train(loss_of, loss_name='train_loss')


def validate(run: Run, model, validated: tuple, values: dict, args) -> dict:
    """COCO's figures of the validation images, on all ranks."""
    samples, batch_size = validated
    replicas.broadcast_buffers(model)
    with run.saver.evaluating(run.progress):
        figures = evaluation.evaluate(
            model,
            samples,
            batch_size,
            num_workers=values['worker_num'],
            timeout=args.data_timeout,
            run=inference.live(model, run.step.autocast),
            categories=run.saver.kept['categories'].state_dict(),
        )
    if figures:
        log.info(metrics.table(figures))
    return figures


def keep_best(run: Run, epoch: int, figures: dict) -> list[str]:
    """Note the best AP of boxes so far; ['best'] if it is this epoch's."""
    ap = figures['bbox']['AP']
    if ap <= run.saver.kept['best'].get('AP', -1.0):
        return []
    run.saver.kept['best'] = {'AP': ap, 'epoch': epoch}
    return ['best']


PARSER = cli.parser(
    __doc__, flags.configuration, cli.device, flags.workers, parallel_flags.sharding
)
group = PARSER.add_argument_group('training', 'everything else is in the config')
group.add_argument(
    '--eval', action='store_true', help='evaluate every snapshot_epoch epochs, and keep the best'
)
group.add_argument(
    '-r',
    '--resume',
    default=None,
    metavar='FILE',
    help='checkpoint to resume; `auto`: the newest undamaged one of this config, if any',
)
flags.amp(group)
group.add_argument('--seed', type=cli.number(int, 0), default=0, help='seed of everything random')
group.add_argument(
    '--save_every_iters',
    type=cli.number(int, 0),
    default=0,
    help='also save within an epoch, every so many iterations; 0: never',
)
group.add_argument('--keep', type=cli.number(int, 0), default=3, help='checkpoints to keep; 0: all')
profiling.flag(group)
group.add_argument('--use_vdl', action='store_true', help='write VisualDL records')
group.add_argument(
    '--vdl_log_dir', default='vdl_log_dir', metavar='DIR', help='folder of VisualDL records'
)

if __name__ == '__main__':
    program.run(main, PARSER)
