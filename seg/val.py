"""Evaluate a segmentor, with the flags of PaddleSeg's tools/val.py.

    python seg/val.py --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml --model_path WEIGHTS

Prints mIoU, mAcc and aAcc as mmsegmentation counts them, and PaddleSeg's own figures. Several scales and flips:
upernet_mae_base_ade20k_512x512_160k_ms.yml, or --aug_eval --scales 0.5 0.75 1 1.25 1.5 1.75 --flip_horizontal.
"""
import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import sys

from paddleseg.core import evaluate
from paddleseg.cvlibs import SegBuilder

from seg import flags
from util import cli, run
from util.errors import InputError


def main(args):
    run.begin(args.device, seed=0)
    config = flags.configuration(args.config, args.opts)
    settings = flags.testing(config.test_config, vars(args), args.aug_eval)
    flags.show(config)
    builder = SegBuilder(config)
    samples = flags.build(builder, 'val_dataset', args.config)
    if not len(samples):
        raise InputError(f'{args.config}: val_dataset has no image')
    model = flags.model(builder, args.config, args.model_path)
    try:
        evaluate(model, samples, num_workers=args.num_workers, **settings | ({'auc_roc': True} if args.auc_roc else {}))
    except (RuntimeError, ValueError) as error:
        print(file=sys.stderr)  # below the progress bar
        if args.auc_roc and not isinstance(error, InputError):  # it takes images of one size without ignored pixels
            raise InputError(f'--auc_roc: {error}') from None
        raise


PARSER = cli.parser(__doc__, flags.config, flags.model_path, cli.device, flags.workers, flags.data_format, flags.evaluation)
PARSER.add_argument('--auc_roc', action='store_true', help='also the area under the ROC curve')

if __name__ == '__main__':
    run.program(main, PARSER)
