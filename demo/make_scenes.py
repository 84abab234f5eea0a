"""Write scenes with a class for each pixel, in ADE20K's layout.

    python demo/make_scenes.py --out demo/data/scenes

Scanned digits on pieces of the two photographs that come with scikit-learn. Classes count from 1,
as in ADE20K: the digits 0 and 1, then the two photographs. Validation has other scans and other
parts of the photographs than training.

Scenes and labels: <out>/{images,annotations}/{training,validation}. To pre-train on:
<out>/unlabelled, and the lists <out>/train.txt and <out>/val.txt.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

SIZE = (40, 52)  # height and width in pixels
DIGITS = 2  # the classes 1 and 2
PHOTOGRAPHS = ('china.jpg', 'flower.jpg')  # the classes 3 and 4
COLUMN = 400  # training has the photographs left of it, validation right of it
COUNTS = {'training': 40, 'validation': 100}
UNLABELLED = 2000  # more pictures like those of training
WHITE = 16  # the highest grey level of a scan
CONTRAST = 100  # least difference of a digit from its background, in one of red, green and blue


@dataclass(frozen=True)
class Part:
    """What scenes of a split are made of.

    digits: scans [8, 8] with their digit. photographs: [height, width, 3] each.
    """

    digits: list[tuple[np.ndarray, int]]
    photographs: list[np.ndarray]


def main(
    out: Path,
    seed: int,
    counts: dict[str, int] = COUNTS,
    unlabelled: int = UNLABELLED,
    size: tuple[int, int] = SIZE,
) -> None:
    """Write all scenes; counts: of labelled ones, by split."""
    rng = np.random.default_rng(seed)
    parts = split()
    # renamed at the end: half a data set must not look like a whole one
    unfinished = out.with_name(f'{out.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)

    for name, part in parts.items():
        images = unfinished / 'images' / name
        labels = unfinished / 'annotations' / name
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(counts[name]):
            picture, label = scene(rng, part, size)
            picture.save(images / f'scene_{number:03}.jpg', quality=95)
            label.save(labels / f'scene_{number:03}.png')

    folder = unfinished / 'unlabelled'
    folder.mkdir()
    for number in range(unlabelled):
        picture, _ = scene(rng, parts['training'], size)
        picture.save(folder / f'scene_{number:03}.jpg', quality=95)

    write_list(unfinished / 'train.txt', 'unlabelled')
    write_list(unfinished / 'val.txt', 'images/validation')
    unfinished.rename(out)
    print(f'{sum(counts.values())} scenes with labels and {unlabelled} without written to {out}')


def split() -> dict[str, Part]:
    """The scans and photographs of training and of validation."""
    scans = load_digits(n_class=DIGITS)
    digits = list(zip(scans.images, scans.target))
    held_out = len(digits) // 5
    photographs = [load_sample_image(name) for name in PHOTOGRAPHS]
    left = [photograph[:, :COLUMN] for photograph in photographs]
    right = [photograph[:, COLUMN:] for photograph in photographs]
    return {
        'training': Part(digits[held_out:], left),
        'validation': Part(digits[:held_out], right),
    }


def scene(
    rng: np.random.Generator, part: Part, size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """A picture and its label: one or two digits on a piece of a photograph."""
    kind = rng.integers(len(part.photographs))
    photograph = part.photographs[kind]
    picture = photograph[place(rng, photograph.shape, size)].astype(float)
    label = np.full(size, 1 + DIGITS + kind, 'uint8')

    for _ in range(rng.integers(1, 3)):
        scan, digit = part.digits[rng.integers(len(part.digits))]
        side = int(rng.integers(min(size) // 2, min(size) * 4 // 5))
        ink = enlarged(scan, side)
        where = place(rng, size, (side, side))
        color = contrasting(rng, picture[where].mean((0, 1)))

        opacity = np.clip(2 * ink, 0, 1)[..., None]  # [side, side, 1]
        picture[where] += opacity * (color - picture[where])
        label[where][ink > 0.5] = 1 + digit
    return Image.fromarray(picture.round().astype('uint8')), Image.fromarray(label)


def place(
    rng: np.random.Generator, whole: tuple[int, ...], size: tuple[int, int]
) -> tuple[slice, slice]:
    """A random window of this height and width within a larger picture."""
    top = rng.integers(whole[0] - size[0])
    left = rng.integers(whole[1] - size[1])
    return slice(top, top + size[0]), slice(left, left + size[1])


def enlarged(scan: np.ndarray, side: int) -> np.ndarray:
    """A scan as [side, side], 1 where the ink is darkest."""
    levels = (scan * 255 / WHITE).astype('uint8')
    picture = Image.fromarray(levels).resize((side, side), Image.BICUBIC)
    return np.asarray(picture) / 255


def contrasting(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A random colour [3] that differs from the background by CONTRAST in one channel."""
    color = background
    while np.abs(color - background).max() < CONTRAST:
        bright = rng.integers(0, 2, 3)
        color = bright * 200 + rng.integers(0, 56, 3)
    return color


def write_list(path: Path, folder: str) -> None:
    """List the pictures of a folder beside the list, a line each."""
    files = sorted((path.parent / folder).iterdir())
    path.write_text(''.join(f'{folder}/{file.name}\n' for file in files))


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument('--out', type=Path, default=Path('demo/data/scenes'), help='folder to write')
PARSER.add_argument('--seed', type=int, default=0, help='seed of places, colours and choices')

if __name__ == '__main__':
    args = PARSER.parse_args()
    target = args.out.resolve()
    if target.exists():
        PARSER.error(f'--out {target} exists already; name a new folder')
    main(target, args.seed)
