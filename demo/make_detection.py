"""Write scenes with a box and a mask for each digit, in COCO's layout.

    python demo/make_detection.py --out demo/data/detection

Scanned digits of many sizes on pieces of the two photographs that come with scikit-learn. The
classes are the digits 0, 1 and 2. Validation has other scans and other parts of the photographs
than training.

Scenes: <out>/{train2017,val2017}, with <out>/annotations/instances_{train,val}2017.json. As in
COCO, the numbers of the categories have gaps, some scenes hold nothing, and one of each part holds
a crowd. To pre-train on: <out>/unlabelled/train/scenes.
"""

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from make_scenes import COLUMN, PHOTOGRAPHS, contrasting, enlarged, place
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

SIZE = (96, 128)  # height and width in pixels
SIDES = (16, 56)  # of a digit, in pixels
CATEGORIES = {2: 'zero', 3: 'one', 7: 'two'}  # by their number in the json
COUNTS = {'train': 60, 'val': 100}
UNLABELLED = 2000  # more pictures like those of training
DIGITS = 4  # in a scene, at most
COVERED = 0.05  # largest share of a digit's square that other digits may cover
TRIES = 20  # places to try for a digit
EMPTY = 20  # every 20th scene holds nothing
CROWD = (30, 60)  # height and width of a group of small digits
CROWD_SIDES = (10, 15)


@dataclass(frozen=True)
class Part:
    """What scenes of a split are made of.

    digits: for each class its scans [8, 8]. photographs: [height, width, 3] each.
    """

    digits: list[list[np.ndarray]]
    photographs: list[np.ndarray]


@dataclass
class Scene:
    """A picture and what it holds.

    picture: float [height, width, 3]. owner: for each pixel the number of the object whose ink is
    there, from 1; 0 is the photograph. classes: of the objects. crowds: the numbers of crowds.
    """

    picture: np.ndarray
    owner: np.ndarray
    classes: list[int] = field(default_factory=list)
    crowds: set[int] = field(default_factory=set)

    @property
    def image(self) -> Image.Image:
        """The picture in 8 bits."""
        return Image.fromarray(self.picture.round().astype('uint8'))


def main(
    out: Path, seed: int, counts: dict[str, int] = COUNTS, unlabelled: int = UNLABELLED
) -> None:
    """Write all scenes; counts: of labelled ones, by split."""
    rng = np.random.default_rng(seed)
    parts = split()
    # renamed at the end: half a data set must not look like a whole one
    unfinished = out.with_name(f'{out.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / 'annotations').mkdir(parents=True)

    for name, part in parts.items():
        scenes = [scene(rng, part, number) for number in range(counts[name])]
        save(scenes, unfinished / f'{name}2017')
        text = json.dumps(labels(scenes))
        (unfinished / f'annotations/instances_{name}2017.json').write_text(text)

    # number 1: a scene without a crowd, and not an empty one
    scenes = [scene(rng, parts['train'], number=1) for _ in range(unlabelled)]
    save(scenes, unfinished / 'unlabelled/train/scenes')
    unfinished.rename(out)
    print(f'{sum(counts.values())} scenes with labels and {unlabelled} without written to {out}')


def split() -> dict[str, Part]:
    """The scans and photographs of training and of validation."""
    photographs = [load_sample_image(name) for name in PHOTOGRAPHS]
    train = Part([], [photograph[:, :COLUMN] for photograph in photographs])
    val = Part([], [photograph[:, COLUMN:] for photograph in photographs])

    scans = load_digits(n_class=len(CATEGORIES))
    for digit in range(len(CATEGORIES)):
        of_class = list(scans.images[scans.target == digit])
        held_out = len(of_class) // 5
        train.digits.append(of_class[held_out:])
        val.digits.append(of_class[:held_out])
    return {'train': train, 'val': val}


def scene(rng: np.random.Generator, part: Part, number: int) -> Scene:
    """One to four digits on a piece of a photograph.

    Scene 0 also holds a crowd, and every 20th scene holds nothing.
    """
    kind = rng.integers(len(part.photographs))
    photograph = part.photographs[kind]
    picture = photograph[place(rng, photograph.shape, SIZE)].astype(float)
    made = Scene(picture, owner=np.zeros(SIZE, 'uint8'))
    if number % EMPTY == EMPTY - 1:
        return made

    if number == 0:
        add_crowd(rng, part, made)
    for _ in range(rng.integers(1, DIGITS + 1)):
        smallest, largest = np.log(SIDES)
        side = round(np.exp(rng.uniform(smallest, largest)))
        digit = rng.integers(len(part.digits))
        where = free_place(rng, made.owner, side)
        if where is not None:
            made.classes.append(int(digit))
            draw(rng, part, made, where)
    return made


def add_crowd(rng: np.random.Generator, part: Part, made: Scene) -> None:
    """Add a group of small digits of one class, as one object."""
    top, left = (window.start for window in place(rng, SIZE, CROWD))
    made.classes.append(int(rng.integers(len(part.digits))))
    made.crowds.add(len(made.classes))
    height, width = CROWD
    step = max(CROWD_SIDES)
    for row in range(top, top + height, step):
        for column in range(left, left + width, step):
            side = rng.integers(*CROWD_SIDES)
            where = (slice(row, row + side), slice(column, column + side))
            draw(rng, part, made, where)


def free_place(rng: np.random.Generator, owner: np.ndarray, side: int) -> tuple | None:
    """A square window with almost no digit in it; None where none was found."""
    for _ in range(TRIES):
        where = place(rng, owner.shape, (side, side))
        if (owner[where] > 0).mean() <= COVERED:
            return where
    return None


def draw(rng: np.random.Generator, part: Part, made: Scene, where: tuple[slice, slice]) -> None:
    """Draw a random scan of the newest object's class into a square window."""
    scans = part.digits[made.classes[-1]]
    scan = scans[rng.integers(len(scans))]
    ink = enlarged(scan, made.owner[where].shape[0])  # [side, side]
    color = contrasting(rng, made.picture[where].mean((0, 1)))
    opacity = np.clip(2 * ink, 0, 1)[..., None]  # [side, side, 1]
    made.picture[where] += opacity * (color - made.picture[where])
    made.owner[where][ink > 0.5] = len(made.classes)


def save(scenes: list[Scene], folder: Path) -> None:
    """Write the pictures under COCO's names, which are their numbers from 1."""
    folder.mkdir(parents=True)
    for number, made in enumerate(scenes, 1):
        made.image.save(folder / file_name(number), quality=95)


def file_name(number: int) -> str:
    """COCO's name of a picture."""
    return f'{number:012}.jpg'


def labels(scenes: list[Scene]) -> dict:
    """The json of a part: images, annotations and categories, all numbered from 1."""
    height, width = SIZE
    images = []
    annotations = []
    for image_id, made in enumerate(scenes, 1):
        image = {'id': image_id, 'file_name': file_name(image_id), 'width': width}
        images.append(image | {'height': height})
        for number, digit in enumerate(made.classes, 1):
            entry = annotation(made.owner == number)
            entry['id'] = len(annotations) + 1
            entry['image_id'] = image_id
            entry['category_id'] = list(CATEGORIES)[digit]
            entry['iscrowd'] = int(number in made.crowds)
            annotations.append(entry)
    categories = [{'id': number, 'name': name} for number, name in CATEGORIES.items()]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def annotation(mask: np.ndarray) -> dict:
    """Box, area and mask of an object from its pixels, bool [height, width]."""
    rows = np.flatnonzero(mask.any(axis=1)).tolist()
    columns = np.flatnonzero(mask.any(axis=0)).tolist()
    top, left = rows[0], columns[0]
    height = rows[-1] + 1 - top
    width = columns[-1] + 1 - left
    return {
        'bbox': [left, top, width, height],
        'area': int(mask.sum()),
        'segmentation': {'size': list(mask.shape), 'counts': run_lengths(mask)},
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's code of a mask: the lengths of runs, column by column; the first run is of zeros."""
    pixels = mask.T.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    if pixels[0]:
        edges = np.r_[0, edges]
    return np.diff(np.r_[0, edges, pixels.size]).tolist()


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument('--out', type=Path, default=Path('demo/data/detection'), help='folder to write')
PARSER.add_argument('--seed', type=int, default=0, help='seed of places, colours and choices')

if __name__ == '__main__':
    args = PARSER.parse_args()
    target = args.out.resolve()
    if target.exists():
        PARSER.error(f'--out {target} exists already; name a new folder')
    main(target, args.seed)
