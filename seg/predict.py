"""Segment pictures, with the flags of PaddleSeg's tools/predict.py.

    python seg/predict.py --model_path WEIGHTS --image_path PICTURE \\
        --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml
    python seg/predict.py --engine inference --model_path FOLDER --image_path PICTURE

PICTURE may be a folder, or a text file with one path a line. The second form runs a model that
seg/export.py has written; its windows and scales come from the flags, else from --config, else from
the export. save_dir receives added_prediction/, the pictures with the colours of their classes laid
over them and a legend below, and pseudo_color_prediction/, palette PNGs whose numbers are the
classes.
"""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from paddleseg.utils import logger, progbar, visualize
from PIL import Image

from seg import classes, dataset, flags, inference, precision
from util import cli, dist, legend, log, program
from util.data import lists, pictures
from util.errors import InputError

# folders below save_dir, by PaddleSeg's names
ADDED = 'added_prediction'
MASKS = 'pseudo_color_prediction'
SMALLEST_SHARE = 0.001  # of the pixels that the legend shows as a number


def main(args):
    program.start(args.device, seed=0, amp=args.amp, deterministic=args.deterministic)
    colors = palette(args.custom_color)
    files = find(args.image_path, args.save_dir)
    warn_of_earlier(files, args.save_dir)
    if args.opts and not args.config:
        raise InputError('--opts changes a config; give --config')
    segmentor = loaded(args)
    names = classes.read(args.class_names) if args.class_names else segmentor.names

    mine = files[dist.rank() :: dist.world_size()]
    logger.info(
        f'{len(files)} pictures, {len(mine)} for this process; results go to {args.save_dir}'
    )
    progress = progbar.Progbar(target=len(mine), verbose=1)
    for number, (file, name, mask_name) in enumerate(mine, 1):
        try:
            image = dataset.read_image(file)
        except InputError:
            print(file=sys.stderr)  # below the progress bar
            raise
        labels = labelled(segmentor, image, file)
        added, mask = drawn(image, labels, colors)
        if not args.no_legend:
            added = with_legend(added, labels, colors, names)
        save(added, Path(args.save_dir) / ADDED / name)
        save(mask, Path(args.save_dir) / MASKS / mask_name)
        progress.update(number)
    logger.info(f'Predicted images are saved in {ADDED} and {MASKS}')


def loaded(args) -> inference.Segmentor:
    """The segmentor of --config, or with another --engine that of an exported folder."""
    config = None
    if args.config or args.engine == 'dygraph':
        config = flags.configuration(args.config, args.opts)
    if args.engine == 'dygraph':
        flags.show(config)
        segmentor = inference.from_config(
            config, args.config, args.model_path, args.use_ema, asked=vars(args)
        )
        segmentor.autocast = precision.caster(args.amp, args.amp_level)
        return segmentor

    if args.amp != 'off':
        raise InputError(f'--amp {args.amp}: an exported model has the precision of its export')
    if not args.model_path:
        raise InputError(
            f'--engine {args.engine} needs --model_path, the folder that seg/export.py has written'
        )
    if args.use_ema:
        raise InputError(
            '--use_ema: an exported model holds one set of weights; give --use_ema to seg/export.py'
        )
    return inference.from_export(args.model_path, config, vars(args), args.engine)


def labelled(segmentor: inference.Segmentor, image: np.ndarray, file: Path) -> np.ndarray:
    """The class numbers of a BGR picture; InputError names a picture that the model cannot take."""
    try:
        return segmentor(image[..., ::-1])
    except InputError as error:
        print(file=sys.stderr)  # below the progress bar
        height, width = image.shape[:2]
        raise InputError(f'{file} ({width} x {height} pixels): {error}') from None


def palette(custom: list[int] | None) -> np.ndarray:
    """PaddleSeg's colours of the classes, uint8 [256, 3], red, green and blue.

    custom: numbers that replace the first of them, three for each class.
    """
    if custom and (len(custom) % 3 or min(custom) < 0 or max(custom) > 255):
        raise InputError(
            '--custom_color takes three numbers of 0 to 255 for each class, '
            f'not {len(custom)} numbers from {min(custom)} to {max(custom)}'
        )
    numbers = visualize.get_color_map_list(256, custom_color=custom)
    return np.asarray(numbers[: 3 * 256], dtype='uint8').reshape(-1, 3)


def find(image_path: str, save_dir: str = '') -> list[tuple[Path, Path, Path]]:
    """(picture, name of its overlay, name of its mask) for each picture of a file, folder or list.

    The names are relative to the folders of the results. Earlier results in save_dir do not count
    as pictures.
    """
    path = Path(os.path.abspath(image_path))  # a list may name pictures by ../
    root = path.parent
    if path.is_dir():
        root = path
        files = _pictures_in(path, save_dir)
    elif path.suffix.lower() in pictures.PICTURES:
        files = [path]
    elif path.is_file():
        files = listed(path)
    else:
        raise InputError(f'--image_path {image_path}: no such picture, folder or list')
    if not files:
        raise InputError(
            f'--image_path {image_path}: no picture there ({" ".join(pictures.PICTURES)})'
        )

    absolute = [Path(os.path.abspath(file)) for file in files]
    unique = list(dict.fromkeys(absolute))  # a list may repeat one
    names = _names_below(root, unique)
    return list(zip(unique, names, mask_names(names)))


def _pictures_in(folder: Path, save_dir: str) -> list[Path]:
    """The pictures in a folder, without earlier results in save_dir."""
    results = [Path(os.path.abspath(save_dir)) / name for name in (ADDED, MASKS)]

    def is_result(file: Path) -> bool:
        return any(file.is_relative_to(earlier) for earlier in results)

    return [file for file in pictures.find(folder) if not is_result(file)]


def _names_below(root: Path, files: list[Path]) -> list[Path]:
    """A relative path for each file: below `root`, or below / for files that are elsewhere."""
    below_top = [Path(*file.parts[1:]) for file in files]
    names = []
    for file, full_name in zip(files, below_top):
        is_inside = file.is_relative_to(root)
        names.append(file.relative_to(root) if is_inside else full_name)
    # /x/a.png and x/a.png in this folder would have the same name
    return names if len(set(names)) == len(names) else below_top


def mask_names(names: list[Path]) -> list[Path]:
    """The name of each picture's mask: .png replaces its suffix.

    Where several pictures would share a name, .png is appended to the suffix instead.
    """
    whole: set[Path] = set()  # names that keep their suffix

    def mask_name(name: Path) -> Path:
        return Path(f'{name}.png') if name in whole else name.with_suffix('.png')

    while True:
        masks = [mask_name(name) for name in names]
        times = Counter(masks)
        shared = {name for name, mask in zip(names, masks) if times[mask] > 1}
        if shared <= whole:
            return masks
        whole |= shared


def warn_of_earlier(files: list[tuple[Path, Path, Path]], save_dir: str) -> None:
    """Warn how many masks of an earlier run, perhaps of other pictures, will be replaced."""
    folder = Path(save_dir) / MASKS
    earlier = [mask for _, _, mask in files if (folder / mask).exists()]
    if earlier:
        log.warn(
            f'{len(earlier)} of {len(files)} masks in {folder} are of an earlier run and will be '
            f'replaced, such as {earlier[0]}; another --save_dir keeps them'
        )


def listed(path: Path) -> list[Path]:
    """The pictures of a list: one path a line, relative to the list's folder.

    The path of a label may follow on the line.
    """
    endings = ' '.join(pictures.PICTURES)
    what = f'list of pictures (nor does its name end in one of {endings})'
    found = []
    for number, line in lists.read(path, what, name=f'--image_path {path}'):
        name = line
        if not (path.parent / line).is_file():
            pair = lists.pair(line, pictures.PICTURES, path.parent)
            name = pair[0] if pair else line
        if not name.lower().endswith(pictures.PICTURES):
            word = name.split()[0]
            raise InputError(
                f'--image_path {path}, line {number}: {word!r} does not end in one of {endings}'
            )
        found.append(path.parent / name)
    return found


def drawn(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray
) -> tuple[Image.Image, Image.Image]:
    """The picture with the colours of its classes laid over it, and its mask with a palette.

    image: BGR [height, width, 3]; labels: class numbers [height, width]; colors: [256, 3].
    """
    if labels.max() > 255:
        raise InputError(f'class {labels.max()} does not fit into a picture of 256 colours')
    labels = labels.astype('uint8')
    mask = Image.fromarray(labels)
    mask.putpalette(colors.ravel().tolist())

    rgb = image[..., ::-1]
    blended = 0.6 * rgb + 0.4 * colors[labels]
    return Image.fromarray(blended.round().astype('uint8')), mask


def with_legend(
    added: Image.Image, labels: np.ndarray, colors: np.ndarray, names: list[str] | tuple[str, ...]
) -> Image.Image:
    """An overlay with its classes below it, the largest first: colour, name, share of the pixels.

    The colours are those of the palette; in the overlay they are mixed with the picture.
    """
    numbers, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    entries = []
    for number, count in zip(numbers[order].tolist(), counts[order].tolist()):
        share = count / labels.size
        shown = f'{share:.1%}' if share >= SMALLEST_SHARE else f'< {SMALLEST_SHARE:.1%}'
        entries.append((f'{classes.name(names, number)} {shown}', tuple(colors[number].tolist())))
    noun = 'class' if len(entries) == 1 else 'classes'
    return legend.below(added, entries, f'{len(entries)} {noun}, by share of the pixels')


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture, JPEG in quality 95, and make its folder; InputError where that fails."""
    options = {}
    if file.suffix.lower() in ('.jpg', '.jpeg'):
        options['quality'] = 95
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, **options)
    except OSError as error:
        raise InputError(f'--save_dir: cannot write {file} ({error.strerror or error})') from None


FLAGS = (flags.config, flags.model_path, cli.device, precision.flags, flags.prediction)
PARSER = cli.parser(__doc__, *FLAGS)
PARSER.add_argument(
    '--image_path', required=True, metavar='PATH', help='a picture, a folder, or a list of pictures'
)
PARSER.add_argument(
    '--save_dir', default='./output/result', metavar='DIR', help='folder of the results'
)
PARSER.add_argument(
    '--engine',
    choices=['dygraph', 'inference', 'onnx'],
    default='dygraph',
    help='dygraph: the model of --config; inference (Paddle Inference) and onnx (ONNX Runtime): '
    'the exported folder in --model_path',
)
PARSER.add_argument(
    '--custom_color',
    nargs='+',
    type=int,
    default=None,
    metavar='N',
    help='red, green, blue of the first class, then of the second ... '
    "(default: PaddleSeg's colours)",
)

PARSER.add_argument(
    '--class_names',
    default=None,
    metavar='FILE',
    help="names for the legend, one class a line (default: those of the config's data set)",
)
cli.no_legend(PARSER)

if __name__ == '__main__':
    program.run(main, PARSER)
