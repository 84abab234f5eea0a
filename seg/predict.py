"""Segment pictures, with the flags of PaddleSeg's tools/predict.py.

    python seg/predict.py --config seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml --model_path WEIGHTS
        --image_path PICTURE
    python seg/predict.py --engine inference --model_path FOLDER --image_path PICTURE

PICTURE may be a folder, or a text file with a path a line. The second form runs what seg/export.py has written; how to
test it (windows, scales) is then said by the flags, by --config, or by the export. save_dir gets added_prediction/, the
pictures under the colours of their classes, and pseudo_color_prediction/, palette PNGs whose numbers are the classes.
"""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from paddleseg.cvlibs import SegBuilder
from paddleseg.transforms import Compose
from paddleseg.utils import logger, progbar, visualize
from PIL import Image

from seg import dataset, flags, infer
from util import cli, dist, log, program
from util.data import lists, pictures
from util.errors import InputError

# folders below save_dir, by PaddleSeg's names
RESULTS = ('added_prediction', 'pseudo_color_prediction')


def main(args):
    program.start(args.device, seed=0)
    colors = palette(args.custom_color)
    files = find(args.image_path, args.save_dir)
    warn_of_earlier(files, args.save_dir)
    if args.opts and not args.config:
        raise InputError('--opts changes a config; give --config')
    config = (
        flags.configuration(args.config, args.opts)
        if args.config or args.engine == 'dygraph'
        else None
    )
    if args.engine == 'inference':
        if not args.model_path:
            raise InputError(
                '--engine inference needs --model_path, the folder that seg/export.py has written'
            )
        model = infer.Exported(args.model_path)
        transforms, said = model.transforms, config.test_config if config else model.test_config
    else:
        flags.show(config)
        builder = SegBuilder(config)
        transforms, said = (
            Compose(flags.build(builder, 'val_transforms', args.config)),
            config.test_config,
        )
        model = flags.model(builder, args.config, args.model_path)
    settings = flags.testing(said, vars(args), args.aug_pred)
    settings = {key: settings[key] for key in flags.TEST if key in settings}

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
        labels = labelled(model, image, transforms, settings, file)
        added, mask = drawn(image, labels, colors)
        for result, folder, below in zip((added, mask), RESULTS, (name, mask_name)):
            save(result, Path(args.save_dir) / folder / below)
        progress.update(number)
    logger.info('Predicted images are saved in added_prediction and pseudo_color_prediction')


def labelled(
    model, image: np.ndarray, transforms: Compose, settings: dict, file: Path
) -> np.ndarray:
    """Class numbers of a picture; an InputError, of a model that takes no picture of its size, names it."""
    try:
        return infer.labels(model, image, transforms, **settings)
    except InputError as error:
        print(file=sys.stderr)  # below the progress bar
        raise InputError(f'{file} ({image.shape[1]} x {image.shape[0]} pixels): {error}') from None


def palette(custom: list[int] | None) -> np.ndarray:
    """uint8 [256, 3], PaddleSeg's colours, the first of them replaced by `custom`: red, green and blue of a class each."""
    if custom and (len(custom) % 3 or min(custom) < 0 or max(custom) > 255):
        raise InputError(
            f'--custom_color takes three numbers of 0 to 255 for each class, not {len(custom)} numbers '
            f'from {min(custom)} to {max(custom)}'
        )
    return np.asarray(
        visualize.get_color_map_list(256, custom_color=custom)[:768], dtype='uint8'
    ).reshape(-1, 3)


def find(image_path: str, save_dir: str = '') -> list[tuple[Path, Path, Path]]:
    """The pictures of a file, folder or list, each with the names of its two results below their folders.

    Of a folder that holds save_dir, earlier results are no pictures.
    """
    path = Path(os.path.abspath(image_path))  # a list may name pictures by ../
    if path.is_dir():
        results = [Path(os.path.abspath(save_dir)) / folder for folder in RESULTS]
        root, files = (
            path,
            [
                file
                for file in pictures.find(path)
                if not any(file.is_relative_to(folder) for folder in results)
            ],
        )
    elif path.suffix.lower() in pictures.PICTURES:
        root, files = path.parent, [path]
    elif path.is_file():
        root, files = path.parent, listed(path)
    else:
        raise InputError(f'--image_path {image_path}: no such picture, folder or list')
    if not files:
        raise InputError(
            f'--image_path {image_path}: no picture there ({" ".join(pictures.PICTURES)})'
        )
    files = list(
        dict.fromkeys(Path(os.path.abspath(file)) for file in files)
    )  # a list may repeat one
    inside = [
        file.relative_to(root) if file.is_relative_to(root) else Path(*file.parts[1:])
        for file in files
    ]
    if len(set(inside)) < len(inside):  # /x/a.png beside x/a.png of this folder
        inside = [Path(*file.parts[1:]) for file in files]
    return list(zip(files, inside, mask_names(inside)))


def mask_names(names: list[Path]) -> list[Path]:
    """The name of each picture's mask: its own with .png for its suffix, or behind that where another has the same."""
    whole: set[Path] = set()
    while True:
        masks = [
            Path(f'{name}.png') if name in whole else name.with_suffix('.png') for name in names
        ]
        times = Counter(masks)
        shared = {name for name, mask in zip(names, masks) if times[mask] > 1} - whole
        if not shared:
            return masks
        whole |= shared


def warn_of_earlier(files: list[tuple[Path, Path, Path]], save_dir: str) -> None:
    """Say how many masks of an earlier run, perhaps of other pictures of the same names, will be replaced."""
    folder = Path(save_dir) / RESULTS[1]
    earlier = [mask for _, _, mask in files if (folder / mask).exists()]
    if earlier:
        log.warn(
            f'{len(earlier)} of {len(files)} masks in {folder} are of an earlier run and will be replaced, such as '
            f'{earlier[0]}; another --save_dir keeps them'
        )


def listed(path: Path) -> list[Path]:
    """The pictures of a list: a path a line, relative to the list's folder, which a label's path may follow."""
    endings = ' '.join(pictures.PICTURES)
    what = f'list of pictures (nor does its name end in one of {endings})'
    found = []
    for number, line in lists.read(path, what, name=f'--image_path {path}'):
        name = line
        if not (path.parent / line).is_file():
            split = lists.pair(line, pictures.PICTURES, path.parent)
            name = split[0] if split else line
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
    """The picture, BGR [height, width, 3], under the colours of its classes [height, width]; these as a palette picture."""
    if labels.max() > 255:
        raise InputError(f'class {labels.max()} does not fit into a picture of 256 colours')
    labels = labels.astype('uint8')
    mask = Image.fromarray(labels)
    mask.putpalette(colors.ravel().tolist())
    return Image.fromarray(
        (0.6 * image[..., ::-1] + 0.4 * colors[labels]).round().astype('uint8')
    ), mask


def save(picture: Image.Image, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, **({'quality': 95} if file.suffix.lower() in ('.jpg', '.jpeg') else {}))
    except OSError as error:
        raise InputError(f'--save_dir: cannot write {file} ({error.strerror or error})') from None


PARSER = cli.parser(__doc__, flags.config, flags.model_path, cli.device, flags.prediction)
PARSER.add_argument(
    '--image_path', required=True, metavar='PATH', help='a picture, a folder, or a list of pictures'
)
PARSER.add_argument(
    '--save_dir', default='./output/result', metavar='DIR', help='folder of the results'
)
PARSER.add_argument(
    '--engine',
    choices=['dygraph', 'inference'],
    default='dygraph',
    help='what runs the model: this '
    'Python, or paddle.inference, for which --model_path is an exported folder',
)
PARSER.add_argument(
    '--custom_color',
    nargs='+',
    type=int,
    default=None,
    metavar='N',
    help='red, green, blue of the first '
    "class, then of the second ... (default: PaddleSeg's colours)",
)

if __name__ == '__main__':
    program.run(main, PARSER)
