"""Does pre-training help a detector? The AP from pre-trained weights beside that from random ones.

    python demo/score_detection.py --data_path demo/data/detection --random FOLDER ... \\
        --pretrained FOLDER ... --out detection.png

Each FOLDER holds what det/eval.py --output_eval has written for the held-out scenes with the model
of one seed: bbox.json and, for Mask R-CNN, mask.json. The figures are pycocotools', computed apart
from det/. COCO calls objects small below 32 x 32 pixels and large from 96 x 96. These scenes are
smaller, so here the limits are 18 x 18 and 28 x 28, of the box. --out receives a picture of some
scenes: the truth above, and below it what the first model of --pretrained has found.
"""

import det  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import contextlib
import io
import json
import statistics
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from det import draw
from util import cli, legend, panels, program
from util.errors import InputError

SMALL, LARGE = 18**2, 28**2  # pixels of a box
COLUMNS = ('AP', 'AP50', 'small', 'medium', 'large')
FILES = {'bbox': 'bbox.json', 'segm': 'mask.json'}
TITLES = {'bbox': 'box AP', 'segm': 'mask AP'}
SHOWN = 3  # scenes side by side
TIMES = 3  # the side, in pixels, of the square that shows one pixel
GAP = 4  # pixels between two pictures
TITLE = 24  # height in pixels of the line above a row
THRESHOLD = 0.3  # least score of what is drawn


def main(args):
    annotations = args.data_path / 'annotations/instances_val2017.json'
    truth = read(annotations)
    for kind, file in FILES.items():
        if (args.pretrained[0] / file).is_file():
            random = [figures(truth, read(folder / file), kind) for folder in args.random]
            pretrained = [figures(truth, read(folder / file), kind) for folder in args.pretrained]
            print(f'{TITLES[kind]}, {len(truth["images"])} held-out scenes')
            print(table(random, pretrained))
    if args.out:
        write_picture(args.out, args.data_path / 'val2017', truth, args.pretrained[0])


def read(file: Path):
    """The content of a json; InputError names it where that fails."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f'{file} cannot be read as json ({error})') from None


def figures(truth: dict, results: list[dict], kind: str) -> list[float]:
    """The values of COLUMNS by pycocotools. kind: bbox or segm."""
    if not results:
        return [0.0] * len(COLUMNS)
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        real.dataset = json.loads(json.dumps(truth))
        real.createIndex()
        found = real.loadRes(results)
        evaluation = COCOeval(real, found, kind)
        for objects in (real, found):
            sort_by_box(objects)
        evaluation.params.areaRng = [[0, 1e10], [0, SMALL], [SMALL, LARGE], [LARGE, 1e10]]
        evaluation.params.areaRngLbl = ['all', *COLUMNS[2:]]
        evaluation.evaluate()
        evaluation.accumulate()

    # [thresholds of overlap, recalls, classes, areas], with the most detections that are allowed
    precision = evaluation.eval['precision'][..., -1]
    return [
        mean(precision[..., 0]),
        mean(precision[0, ..., 0]),
        *(mean(precision[..., area]) for area in (1, 2, 3)),
    ]


def sort_by_box(objects: COCO) -> None:
    """Let the area of the box decide about the size of each object, also where masks are judged."""
    for annotation in objects.anns.values():
        _, _, width, height = annotation['bbox']
        annotation['area'] = width * height


def mean(precision: np.ndarray) -> float:
    """The mean without the classes that do not occur, which have -1; nan if none occurs."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float('nan')


def table(random: list[list[float]], pretrained: list[list[float]]) -> str:
    """The means over the seeds with their gain, and the AP of each seed."""
    titles = ''.join(f'{title:>8}' for title in COLUMNS)
    lines = [f'{"weights":14}{titles}   AP of each seed']
    for name, seeds in (('random', random), ('pre-trained', pretrained)):
        lines.append(row(name, means(seeds), [seed[0] for seed in seeds]))
    gains = np.subtract(means(pretrained), means(random))
    lines.append(row('mean gain', gains.tolist(), []))
    return '\n'.join(lines)


def means(seeds: list[list[float]]) -> list[float]:
    """The mean of each column over the seeds."""
    return [statistics.fmean(column) for column in zip(*seeds)]


def row(name: str, values: list[float], seeds: list[float]) -> str:
    """A line of the table."""
    columns = ''.join(f'{value:8.3f}' for value in values)
    of_seeds = ', '.join(f'{value:.3f}' for value in seeds)
    return f'{name:14}{columns}   {of_seeds}'.rstrip()


def write_picture(out: Path, folder: Path, truth: dict, found: Path) -> None:
    """Write the first scenes with objects: the truth above, what was found below."""
    names = {category['id']: category['name'] for category in truth['categories']}
    results, with_masks = found_objects(found)
    above, below = [], []
    for image in truth['images']:
        objects = of_image(truth['annotations'], image)
        is_shown = objects and not any(annotation['iscrowd'] for annotation in objects)
        if is_shown and len(above) < SHOWN:
            picture = np.asarray(Image.open(folder / image['file_name']))
            above.append(drawn(picture, objects, names, with_masks))
            below.append(drawn(picture, of_image(results, image), names, with_masks))
    rows = [
        titled(side_by_side(above), 'truth'),
        titled(side_by_side(below), f'found, with a score from {THRESHOLD}'),
    ]
    panels.write(padded(np.concatenate(rows), before=GAP, after=0), out)
    print(f'{len(above)} scenes, the truth above what was found, written to {out}')


def found_objects(folder: Path) -> tuple[list[dict], bool]:
    """What is drawn of a folder of results, and whether it has masks."""
    results = read(folder / FILES['bbox'])
    masks = folder / FILES['segm']
    with_masks = masks.is_file()
    if with_masks:
        # COCO's form of a mask has no box; both files have the same order
        for result, other in zip(results, read(masks)):
            result['segmentation'] = other['segmentation']
    return [result for result in results if result['score'] >= THRESHOLD], with_masks


def of_image(annotations: list[dict], image: dict) -> list[dict]:
    """The annotations or results of an image, by descending score."""
    mine = [annotation for annotation in annotations if annotation['image_id'] == image['id']]
    return sorted(mine, key=lambda annotation: -annotation.get('score', 1))


def drawn(
    picture: np.ndarray, objects: list[dict], names: dict[int, str], with_masks: bool
) -> np.ndarray:
    """A picture with objects in COCO's form, enlarged."""
    boxes = np.array([annotation['bbox'] for annotation in objects], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = [list(names).index(annotation['category_id']) for annotation in objects]
    texts = []
    for annotation in objects:
        score = f' {annotation["score"]:.2f}' if 'score' in annotation else ''
        texts.append(names[annotation['category_id']] + score)
    masks = None
    if with_masks and objects:
        masks = np.stack([pixels(annotation['segmentation']) for annotation in objects])
    image = draw.objects(picture, boxes, np.array(classes), texts, masks, times=TIMES)
    return np.asarray(image)


def pixels(segmentation: dict) -> np.ndarray:
    """The pixels of a mask in COCO's codes, compressed or not."""
    if isinstance(segmentation['counts'], list):
        segmentation = rle.frPyObjects(segmentation, *segmentation['size'])
    return rle.decode(segmentation)


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of one height in a row, with white to the left of and below each."""
    framed = [padded(picture, before=0, after=GAP) for picture in pictures]
    return np.concatenate(framed, axis=1)


def titled(row: np.ndarray, text: str) -> np.ndarray:
    """The row of pictures below a white line with a text."""
    line = Image.new('RGB', (row.shape[1], TITLE), 'white')
    letters = legend.font(text, TITLE * 3 // 4)
    ImageDraw.Draw(line).text((0, TITLE // 2), text, fill='black', font=letters, anchor='lm')
    return np.concatenate([np.asarray(line), row])


def padded(picture: np.ndarray, before: int, after: int) -> np.ndarray:
    """The picture with white pixels: `before` at top and left, `after` at bottom and right."""
    edges = [(before, after), (before, after), (0, 0)]
    return np.pad(picture, edges, constant_values=255)


PARSER = cli.parser(__doc__)
PARSER.add_argument(
    '--data_path',
    type=Path,
    default=Path('demo/data/detection'),
    metavar='DIR',
    help='the folder that make_detection.py has written',
)
for flag in ('random', 'pretrained'):
    PARSER.add_argument(
        f'--{flag}',
        type=Path,
        nargs='+',
        required=True,
        metavar='DIR',
        help=f'results of the models that began from {flag} weights, a folder for each seed',
    )
PARSER.add_argument('--out', type=Path, default=None, metavar='FILE', help='picture to write')

if __name__ == '__main__':
    program.run(main, PARSER)
