"""Does a segmentor see more than the obvious? Its mean IoU against the commonest class everywhere.

    python demo/score_scenes.py --data_path demo/data/scenes --predictions FOLDER --out scenes.png

FOLDER is the folder pseudo_color_prediction/ that seg/predict.py has written for the held-out
scenes, images/validation. --out receives a picture of some scenes: the scenes, their classes, and
the predicted classes.
"""

import seg  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
from pathlib import Path

import numpy as np
from paddleseg.utils import visualize

from seg import census, dataset
from util import cli, log, panels, program
from util.errors import InputError

COLUMNS = 8  # scenes side by side
TIMES = 2  # the side, in pixels, of the square that shows one pixel
GAP = 4  # pixels between two pictures


def main(args):
    pairs = dataset.pairs(args.data_path, 'validation')
    labels = [dataset.read_label(label) for _, label in pairs]
    predictions = []
    for (_, label), truth in zip(pairs, labels):
        predictions.append(read(args.predictions / Path(label).name, truth.shape))

    counts = count(labels)
    missing = census.warning(counts[1:], int(counts[0]), first=1)
    if missing:
        log.warn(missing)
    commonest = int(counts[1:].argmax()) + 1
    everywhere = [np.full_like(label, commonest) for label in labels]
    print(f'{len(labels)} scenes, mean IoU')
    print(f'{"segmentor":16} {mean_iou(labels, predictions):.4f}')
    print(f'{"commonest class":16} {mean_iou(labels, everywhere):.4f}')

    if args.out:
        images = [dataset.read_image(image)[..., ::-1] for image, _ in pairs]  # BGR to RGB
        draw(args.out, images, labels, predictions)


def read(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """A prediction with its classes counted from 1, as the labels count them."""
    prediction = dataset.read_label(file) + 1
    if prediction.shape != shape:
        height, width = prediction.shape
        raise InputError(f'{file} is {width} x {height} pixels, its label {shape[1]} x {shape[0]}')
    return prediction


def count(labels: list[np.ndarray]) -> np.ndarray:
    """The number of pixels of each class; those of 0 have no class."""
    pixels = np.concatenate([label.ravel() for label in labels])
    return np.bincount(pixels, minlength=dataset.Scenes.NUM_CLASSES + 1)


def mean_iou(labels: list[np.ndarray], predictions: list[np.ndarray]) -> float:
    """The mean IoU over all scenes and over the classes that occur in labels or predictions.

    Pixels whose label is 0 are left out.
    """
    label = np.concatenate([array.ravel() for array in labels])
    prediction = np.concatenate([array.ravel() for array in predictions])
    known = label > 0
    label = label[known]
    prediction = prediction[known]

    ious = []
    for number in np.union1d(label, prediction):
        true = label == number
        predicted = prediction == number
        intersection = np.logical_and(true, predicted).sum()
        union = np.logical_or(true, predicted).sum()
        ious.append(intersection / union)
    return float(np.mean(ious))


def draw(
    out: Path, images: list[np.ndarray], labels: list[np.ndarray], predictions: list[np.ndarray]
) -> None:
    """Write a picture of the first scenes: a row each of scenes, classes and predictions."""
    shown = min(COLUMNS, len(labels))
    classes = [colored(label) for label in labels[:shown]]
    predicted = [colored(prediction) for prediction in predictions[:shown]]
    panels.write(side_by_side([images[:shown], classes, predicted]), out)
    print(f'picture, classes, prediction of {shown} scenes written to {out}')


def colored(classes: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] in the colours of seg/predict.py."""
    palette = visualize.get_color_map_list(256)[: 256 * 3]
    colors = np.asarray(palette, dtype='uint8').reshape(-1, 3)
    return colors[(classes - 1).clip(0)]


def side_by_side(rows: list[list[np.ndarray]]) -> np.ndarray:
    """uint8 [height, width, 3]: rows of pictures of one size, enlarged, with white between them."""
    lines = [np.concatenate([framed(picture) for picture in row], axis=1) for row in rows]
    return padded(np.concatenate(lines), before=0, after=GAP)


def framed(picture: np.ndarray) -> np.ndarray:
    """The enlarged picture with white above it and to its left."""
    enlarged = picture.repeat(TIMES, axis=0).repeat(TIMES, axis=1)
    return padded(enlarged, before=GAP, after=0)


def padded(picture: np.ndarray, before: int, after: int) -> np.ndarray:
    """The picture with white pixels around it: `before` at top and left, `after` at the others."""
    edges = [(before, after), (before, after), (0, 0)]
    return np.pad(picture, edges, constant_values=255)


PARSER = cli.parser(__doc__)
PARSER.add_argument(
    '--data_path',
    type=Path,
    default=Path('demo/data/scenes'),
    metavar='DIR',
    help='the folder that make_scenes.py has written',
)
PARSER.add_argument(
    '--predictions',
    type=Path,
    required=True,
    metavar='DIR',
    help='the palette pictures that seg/predict.py has written',
)
PARSER.add_argument('--out', type=Path, default=None, metavar='FILE', help='picture to write')

if __name__ == '__main__':
    program.run(main, PARSER)
