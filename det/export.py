"""Write a detector as an inference model, with the flags of PaddleDetection's tools.

    python det/export.py -o weights=WEIGHTS --output_dir exported \\
        -c det/configs/gfl_um_mae/gfl_um_mae_swin_tiny_25e_coco.yml
    python det/infer.py --engine inference --model_dir exported/NAME --infer_img PICTURE

The folder output_dir/NAME, named as the config, has a model for each stage of the detector, and
infer_cfg.yml. A stage gives maps, because Paddle 3.3 cannot export PaddleDetection's decoding and
suppression; det/infer.py does both outside. The written model is run, and compared with the live
one.
"""

import det  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
from pathlib import Path

from det import config, exporting, flags
from util import cli, program
from util.errors import InputError


def main(args):
    program.start(args.device, seed=0, deterministic=args.deterministic, tf32=False)
    values = config.load(args.config, args.opt)
    if not values.get('weights'):
        raise InputError('-o weights=FILE is needed: the weights to export')
    steps = flags.test_transforms(values)
    height, width = args.input_shape or canvas(steps)
    model, entries = flags.model(values, args.config)

    folder = Path(args.output_dir) / Path(args.config).stem
    program.make_folder('--output_dir', str(folder))
    stages = model.stages()
    inputs = model.stage_inputs(height, width)
    try:
        for name, stage in stages.items():
            apart = exporting.write_stage(stage, inputs[name], folder / name, args.onnx)
            print(f'{folder / name} differs from the live model by {apart:.1e} at most')
    except OSError as error:
        raise InputError(
            f'--output_dir {folder}: cannot write there ({error.strerror or error})'
        ) from None
    exporting.describe(
        folder,
        {
            'config': flags.without_pretrained(values),
            'transforms': fixed(steps, height, width),
            'categories': [list(pair) for pair in flags.categories(values, entries)],
            'stages': list(stages),
        },
    )


def canvas(steps: list) -> tuple[int, int]:
    """The height and width of the pictures that transforms make, for any picture.

    A square of the longest side that Resize makes, in multiples of 32; Pad may say another size.
    """
    sides = None
    for step in steps:
        for name, arguments in step.items() if isinstance(step, dict) else []:
            if name == 'Resize':
                longest = max(arguments['target_size'])
                side = -(-longest // 32) * 32
                sides = side, side
            elif name == 'Pad' and (arguments or {}).get('size'):
                sides = tuple(arguments['size'])
    if sides is None:
        raise InputError(
            'the size of the exported model is open: TestReader has neither Resize nor Pad with a '
            'size; give --input_shape HEIGHT WIDTH'
        )
    return sides


def fixed(steps: list, height: int, width: int) -> list:
    """Transforms whose pictures all have one size: resized to fit into it, then padded."""
    kept = []
    for step in steps:
        name = next(iter(step)) if isinstance(step, dict) else step
        if name == 'Resize':
            short, long = sorted((height, width))
            target = [
                min(a, b) for a, b in zip(sorted(step['Resize']['target_size']), (short, long))
            ]
            kept.append({'Resize': {'target_size': target}})
        elif name not in ('Pad', 'Permute'):
            kept.append(step)
    return [*kept, {'Pad': {'size': [height, width]}}]


PARSER = cli.parser(__doc__, flags.configuration, cli.comparing_device)
PARSER.add_argument(
    '--output_dir', default='output_inference', metavar='DIR', help='folder of the exported model'
)
PARSER.add_argument(
    '--input_shape',
    nargs=2,
    type=cli.number(int, 1),
    default=None,
    metavar=('HEIGHT', 'WIDTH'),
    help='size of all pictures, padded (default: a square that any picture of TestReader fits)',
)
PARSER.add_argument(
    '--onnx', action='store_true', help='also write model.onnx; needs requirements/export.txt'
)

if __name__ == '__main__':
    program.run(main, PARSER)
