"""Does a segmentor see more than the obvious? Its mean IoU on held-out scenes against the commonest class everywhere.

    python demo/score_scenes.py --data_path demo/data/scenes --predictions FOLDER --out scenes.png

FOLDER is the pseudo_color_prediction/ that seg/predict.py has written for images/validation. --out gets a picture of
some scenes: as they are, the classes they have, the classes that were predicted.
"""

import seg  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
from pathlib import Path

import numpy as np
from paddleseg.utils import visualize
from PIL import Image

from seg import census, dataset
from util import cli, log, program
from util.errors import InputError

COLUMNS, TIMES, GAP = 8, 2, 4  # scenes side by side; pixels that stand for one; between two


def main(args):
    pairs = dataset.pairs(args.data_path, 'validation')
    labels = [dataset.read_label(label) for _, label in pairs]
    predictions = [
        read(args.predictions / Path(label).name, truth.shape)
        for (_, label), truth in zip(pairs, labels)
    ]
    counts = np.bincount(
        np.concatenate([label.ravel() for label in labels]),
        minlength=dataset.Scenes.NUM_CLASSES + 1,
    )
    commonest = int(counts[1:].argmax()) + 1  # 0 is no class
    if missing := census.warning(counts[1:], int(counts[0]), first=1):
        log.warn(missing)
    print(f'{len(labels)} scenes, mean IoU')
    print(f'{"segmentor":16} {mean_iou(labels, predictions):.4f}')
    print(
        f'{"commonest class":16} {mean_iou(labels, [np.full_like(label, commonest) for label in labels]):.4f}'
    )
    if args.out:
        rows = [
            [dataset.read_image(image)[..., ::-1] for image, _ in pairs],
            *([colored(classes) for classes in kind] for kind in (labels, predictions)),
        ]
        try:
            Image.fromarray(side_by_side([row[:COLUMNS] for row in rows])).save(args.out)
        except (OSError, ValueError) as error:
            raise InputError(f'--out {args.out}: cannot write this picture ({error})') from None
        print(
            f'picture, classes, prediction of {min(COLUMNS, len(labels))} scenes written to {args.out}'
        )


def read(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """A prediction with its classes counted from 1, as the labels count them."""
    prediction = dataset.read_label(file) + 1
    if prediction.shape != shape:
        raise InputError(
            f'{file} is {prediction.shape[1]} x {prediction.shape[0]} pixels, its label {shape[1]} x '
            f'{shape[0]}'
        )
    return prediction


def mean_iou(labels: list[np.ndarray], predictions: list[np.ndarray]) -> float:
    """Mean over the classes that occur of common pixels / pixels of either, over all scenes; labels 0 are left out."""
    label, prediction = (
        np.concatenate([array.ravel() for array in arrays]) for arrays in (labels, predictions)
    )
    label, prediction = label[label > 0], prediction[label > 0]
    classes = np.union1d(label, prediction)
    return float(
        np.mean(
            [
                ((label == k) & (prediction == k)).sum() / ((label == k) | (prediction == k)).sum()
                for k in classes
            ]
        )
    )


def colored(classes: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] in the colours of seg/predict.py."""
    colors = np.asarray(visualize.get_color_map_list(256)[:768], dtype='uint8').reshape(-1, 3)
    return colors[(classes - 1).clip(0)]


def side_by_side(rows: list[list[np.ndarray]]) -> np.ndarray:
    """uint8 [height, width, 3]: pictures of one size in rows, enlarged, with white between them."""
    edges = [(GAP, 0), (GAP, 0), (0, 0)]
    rows = [
        np.concatenate(
            [
                np.pad(picture.repeat(TIMES, 0).repeat(TIMES, 1), edges, constant_values=255)
                for picture in row
            ],
            axis=1,
        )
        for row in rows
    ]
    return np.pad(np.concatenate(rows), [(0, GAP), (0, GAP), (0, 0)], constant_values=255)


PARSER = cli.parser(__doc__)
PARSER.add_argument(
    '--data_path',
    type=Path,
    default=Path('demo/data/scenes'),
    metavar='DIR',
    help='what make_scenes.py wrote',
)
PARSER.add_argument(
    '--predictions',
    type=Path,
    required=True,
    metavar='DIR',
    help='palette pictures of seg/predict.py',
)
PARSER.add_argument('--out', type=Path, default=None, metavar='FILE', help='picture to write')

if __name__ == '__main__':
    program.run(main, PARSER)
