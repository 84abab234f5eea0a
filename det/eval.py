"""Evaluate a detector, with the flags of PaddleDetection's tools/eval.py.

    python det/eval.py -o weights=WEIGHTS \\
        -c det/configs/gfl_um_mae/gfl_um_mae_swin_tiny_25e_coco.yml

Prints COCO's average precision of boxes, and of masks where the model makes them.
"""

import det  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
from det import config, evaluation, flags, inference, metrics
from util import amp, cli, dist, program
from util.errors import InputError


def main(args):
    if args.save_prediction_only and not args.output_eval:
        raise InputError('--save_prediction_only needs --output_eval, where bbox.json is written')
    program.start(args.device, seed=0, amp=args.amp, deterministic=args.deterministic)
    if args.output_eval:
        program.make_folder('--output_eval', args.output_eval)
    values = config.load(args.config, args.opt)
    samples, batch_size = flags.samples(values, 'Eval')
    model, entries = flags.model(values, args.config)
    figures = evaluation.evaluate(
        model,
        samples,
        batch_size,
        num_workers=values['worker_num'],
        timeout=args.data_timeout,
        run=inference.live(model, amp.caster(args.amp)),
        categories=entries.get('categories'),
        output_dir=args.output_eval,
        save_only=args.save_prediction_only,
        classwise=args.classwise,
    )
    if figures and dist.is_main():
        print(metrics.table(figures))


PARSER = cli.parser(__doc__, flags.configuration, cli.device, flags.amp, flags.workers)
group = PARSER.add_argument_group('results')
group.add_argument('--classwise', action='store_true', help='also the figures of each class')
group.add_argument(
    '--output_eval', default=None, metavar='DIR', help='folder of bbox.json and mask.json'
)
group.add_argument(
    '--save_prediction_only',
    action='store_true',
    help='write bbox.json and mask.json without computing figures, for a test server',
)

if __name__ == '__main__':
    program.run(main, PARSER)
