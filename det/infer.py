"""Find objects in pictures, with the flags of PaddleDetection's tools/infer.py.

    python det/infer.py -o weights=WEIGHTS --infer_dir PICTURES --output_dir output \\
        -c det/configs/gfl_um_mae/gfl_um_mae_swin_tiny_25e_coco.yml

Each picture is written to output_dir with the boxes and masks that reach --draw_threshold, and with
a legend of their classes below it.
"""

import det  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import json
from pathlib import Path

import numpy as np

from det import config, draw, flags, inference, masks
from util import amp, atomic, cli, log, program
from util.data import pictures
from util.errors import InputError
from util.progress import bar

RESULTS = 'results.json'


def main(args):
    program.start(args.device, seed=0, amp=args.amp, deterministic=args.deterministic)
    files = find(args)
    if args.visualize == 'True':
        check_targets(files, args)
    detector = made(args)
    program.make_folder('--output_dir', args.output_dir)
    folder = Path(args.output_dir)
    names = [name for _, name in detector.categories]
    results = []
    for file in bar(files, 'pictures'):
        picture = np.asarray(pictures.read_as_seen(file, 3))
        found = detector(picture)
        shown = found.above(args.draw_threshold)
        if args.visualize == 'True':
            image = drawn(picture, shown, names)
            if not args.no_legend:
                image = draw.with_legend(
                    image, shown.classes, names, caption(shown, args.draw_threshold)
                )
            save(image, folder / target(file, args.infer_dir))
        if args.save_results:
            results.append({'file': str(file), 'objects': described(found, detector.categories)})
        else:
            for score, label in zip(shown.scores, shown.classes):
                print(f'{file}: {names[label]} {score:.2f}')
    if args.save_results:
        with atomic.writing(folder / RESULTS) as out:
            out.write(json.dumps(results, ensure_ascii=False).encode())
    log.info(f'{len(files)} pictures: results are in {folder}')


def find(args) -> list[Path]:
    """The pictures that --infer_img or --infer_dir names; InputError where there are none."""
    if bool(args.infer_img) == bool(args.infer_dir):
        raise InputError('give --infer_img FILE or --infer_dir DIR')
    path = Path(args.infer_img or args.infer_dir)
    flag = '--infer_img' if args.infer_img else '--infer_dir'
    if args.infer_dir and not path.is_dir():
        raise InputError(f'--infer_dir {path}: no such folder')
    files = pictures.find(path)
    if not files:
        raise InputError(f'{flag} {path}: no picture there ({" ".join(pictures.PICTURES)})')
    return files


def check_targets(files: list[Path], args) -> None:
    """InputError if a result would replace its own picture."""
    for file in files:
        if (Path(args.output_dir) / target(file, args.infer_dir)).resolve() == file.resolve():
            raise InputError(
                f'--output_dir {args.output_dir}: the results would replace the pictures, such as '
                f'{file}; name another folder'
            )


def made(args) -> inference.Detector:
    """The detector that the flags name, live or exported."""
    if args.engine == 'dygraph':
        autocast = amp.caster(args.amp)
        return inference.from_config(config.load(args.config, args.opt), args.config, autocast)
    if args.amp != 'off':
        raise InputError(f'--amp {args.amp}: an exported model has the precision of its export')
    if not args.model_dir:
        raise InputError(
            f'--engine {args.engine} needs --model_dir, a folder that det/export.py has written'
        )
    if args.config or args.opt:
        raise InputError(
            f'--engine {args.engine}: the exported folder has its config; leave out -c'
        )
    return inference.from_export(args.model_dir, args.engine)


def target(file: Path, root: str | None) -> Path:
    """Where a picture's result goes below output_dir: as it lies below --infer_dir."""
    return file.relative_to(root) if root else Path(file.name)


def drawn(picture: np.ndarray, found, names: list[str], times: int = 1):
    """The picture with what was found in it; times: how often each of its pixels is repeated."""
    texts = [f'{names[label]} {score:.2f}' for label, score in zip(found.classes, found.scores)]
    return draw.objects(picture, found.boxes, found.classes, texts, masks=found.masks, times=times)


def caption(found, threshold: float) -> str:
    """How many objects are drawn, and from which score on."""
    noun = 'object' if len(found) == 1 else 'objects'
    return f'{len(found)} {noun} with a score of at least {threshold:g}'


def described(found, categories: list[tuple[int, str]]) -> list[dict]:
    """What was found in a picture, for a json: as in COCO's results, and the names of classes."""
    objects = []
    for row in range(len(found)):
        category_id, name = categories[found.classes[row]]
        x1, y1, x2, y2 = found.boxes[row].tolist()
        entry = {
            'category_id': category_id,
            'category': name,
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'score': float(found.scores[row]),
        }
        if found.masks is not None:
            rle = masks.encode(found.masks[row])
            entry['segmentation'] = rle | {'counts': rle['counts'].decode()}
        objects.append(entry)
    return objects


def save(picture, file: Path) -> None:
    """Write a picture, and make its folder; InputError where that fails."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    except OSError as error:
        raise InputError(f'--output_dir: cannot write {file} ({error.strerror or error})') from None


PARSER = cli.parser(__doc__, flags.configuration, cli.device, flags.amp)
PARSER.add_argument('--infer_img', default=None, metavar='FILE', help='a picture')
PARSER.add_argument('--infer_dir', default=None, metavar='DIR', help='a folder of pictures')
PARSER.add_argument('--output_dir', default='output', metavar='DIR', help='folder of the results')
PARSER.add_argument(
    '--draw_threshold',
    type=cli.number(float, 0, 1.0001),
    default=0.5,
    help='smallest score that is drawn',
)
cli.no_legend(PARSER)
PARSER.add_argument('--save_results', action='store_true', help=f'write {RESULTS}, with all scores')
PARSER.add_argument(
    '--visualize', choices=['True', 'False'], default='True', help='whether pictures are written'
)
PARSER.add_argument(
    '--engine',
    choices=['dygraph', 'inference', 'onnx'],
    default='dygraph',
    help='dygraph: the model of -c; inference, onnx: the exported model in --model_dir',
)
PARSER.add_argument(
    '--model_dir', default=None, metavar='DIR', help='a folder that det/export.py has written'
)

if __name__ == '__main__':
    program.run(main, PARSER)
