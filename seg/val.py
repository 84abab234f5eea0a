"""Evaluate a segmentor, with the flags of PaddleSeg's tools/val.py.

    python seg/val.py --model_path WEIGHTS \\
        --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml

Prints mIoU, mAcc and aAcc as mmsegmentation counts them, and PaddleSeg's own figures. For several
scales and flips use upernet_mae_base_ade20k_512x512_160k_ms.yml, or
--aug_eval --scales 0.5 0.75 1 1.25 1.5 1.75 --flip_horizontal.
"""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import sys

import numpy as np
from paddleseg.core import evaluate
from paddleseg.cvlibs import SegBuilder
from paddleseg.datasets import Dataset

from seg import flags, precision
from seg.loading import loading
from seg.sizes import check_evaluation
from util import cli, program
from util.errors import InputError


def main(args):
    program.start(args.device, seed=0, amp=args.amp, deterministic=args.deterministic)
    config = flags.configuration(args.config, args.opts)
    settings = flags.testing(config.test_config, vars(args), args.aug_eval)
    flags.show(config)
    builder = SegBuilder(config)
    samples = flags.build(builder, 'val_dataset', args.config)
    if not len(samples):
        raise InputError(f'{args.config}: val_dataset has no image')
    if args.auc_roc:
        check_auc_roc(samples)
    model = flags.model(builder, args.config, args.model_path, args.use_ema)
    check_evaluation(samples, model, settings)
    if args.auc_roc:
        settings['auc_roc'] = True
    try:
        with loading(args.data_timeout), precision.caster(args.amp, args.amp_level)():
            evaluate(model, samples, num_workers=args.num_workers, **settings)
    except InputError:
        print(file=sys.stderr)  # below the progress bar
        raise


def check_auc_roc(samples: Dataset) -> None:
    """InputError where PaddleSeg could not compute the area under the curve after the evaluation.

    It needs labels of one size without ignored pixels, and every class in at least one of them.
    """
    shape = None
    found = set()
    for number, (_, path) in enumerate(samples.file_list):
        label = samples[number]['label'][0]  # [height, width]
        shape = shape or label.shape
        if label.shape != shape:
            first = samples.file_list[0][1]
            raise InputError(
                '--auc_roc needs labels of one size; '
                f'{path} has {label.shape[1]} x {label.shape[0]} pixels, '
                f'{first} has {shape[1]} x {shape[0]}'
            )
        found.update(np.unique(label).tolist())
        if samples.ignore_index in found:
            raise InputError(f'--auc_roc needs labels without ignored pixels; {path} has some')

    absent = set(range(samples.num_classes)) - found
    if absent:
        raise InputError(
            f'--auc_roc needs every class in the labels; {len(absent)} of {samples.num_classes} '
            f'are in none of them, such as {min(absent)}'
        )


FLAGS = (
    flags.config,
    flags.model_path,
    cli.device,
    flags.workers,
    flags.data_format,
    flags.evaluation,
    precision.flags,
)
PARSER = cli.parser(__doc__, *FLAGS)
PARSER.add_argument('--auc_roc', action='store_true', help='also the area under the ROC curve')

if __name__ == '__main__':
    program.run(main, PARSER)
