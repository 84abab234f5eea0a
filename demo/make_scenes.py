"""Write scenes with a class for each pixel, in ADE20K's layout: <out>/{images,annotations}/{training,validation}; and lists
of pictures without labels, <out>/{train,val}.txt, to pre-train on.

    python demo/make_scenes.py --out demo/data/scenes

Scanned digits on pieces of the two photographs that scikit-learn carries. Classes as ADE20K counts them, from 1: the digits
0 and 1, then the two photographs. Validation has other scans and other parts of the photographs than training.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

SIZE = 40, 52  # height and width in pixels
DIGITS, PHOTOGRAPHS = 2, ('china.jpg', 'flower.jpg')  # the classes 1 and 2, 3 and 4
COUNTS = {'training': 40, 'validation': 100}
CONTRAST = (
    100  # levels between a digit and what is behind it, in one of red, green and blue at least
)
UNLABELLED = 2000  # more pictures of the kind of training's


def scene(
    rng: np.random.Generator, digits: list, photographs: list, size: tuple[int, int]
) -> tuple:
    """A picture and its label."""
    kind = rng.integers(len(photographs))
    photograph = photographs[kind]
    picture = photograph[
        tuple(
            slice(start, start + length)
            for length, start in zip(
                size,
                (rng.integers(whole - length) for whole, length in zip(photograph.shape, size)),
            )
        )
    ].astype(float)
    label = np.full(size, 1 + DIGITS + kind, 'uint8')
    for _ in range(rng.integers(1, 3)):
        scan, digit = digits[rng.integers(len(digits))]
        side = int(rng.integers(min(size) // 2, min(size) * 4 // 5))
        ink = (
            np.asarray(
                Image.fromarray((scan * 255 / 16).astype('uint8')).resize(
                    (side, side), Image.BICUBIC
                )
            )
            / 255
        )
        place = tuple(
            slice(start, start + side) for start in (rng.integers(length - side) for length in size)
        )
        color = behind = picture[place].mean((0, 1))
        while np.abs(color - behind).max() < CONTRAST:
            color = rng.integers(0, 2, 3) * 200 + rng.integers(0, 56, 3)
        picture[place] += np.clip(2 * ink, 0, 1)[..., None] * (color - picture[place])
        label[place][ink > 0.5] = 1 + digit
    return Image.fromarray(picture.round().astype('uint8')), Image.fromarray(label)


def main(
    out: Path,
    seed: int,
    counts: dict[str, int] = COUNTS,
    unlabelled: int = UNLABELLED,
    size: tuple[int, int] = SIZE,
) -> None:
    rng, scans = np.random.default_rng(seed), load_digits(n_class=DIGITS)
    pairs = list(zip(scans.images, scans.target))
    photographs = [load_sample_image(name) for name in PHOTOGRAPHS]
    held_out = len(pairs) // 5
    parts = {
        'training': (pairs[held_out:], [photograph[:, :400] for photograph in photographs]),
        'validation': (pairs[:held_out], [photograph[:, 400:] for photograph in photographs]),
    }
    # renamed at the end: half a data set must not look like one
    unfinished = out.with_name(out.name + '.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    for part, (digits, pieces) in parts.items():
        images, labels = (unfinished / kind / part for kind in ('images', 'annotations'))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(counts[part]):
            picture, label = scene(rng, digits, pieces, size)
            picture.save(images / f'scene_{number:03}.jpg', quality=95)
            label.save(labels / f'scene_{number:03}.png')
    (unfinished / 'unlabelled').mkdir()
    for number in range(unlabelled):
        scene(rng, *parts['training'], size)[0].save(
            unfinished / f'unlabelled/scene_{number:03}.jpg', quality=95
        )
    for name, folder in (('train', 'unlabelled'), ('val', 'images/validation')):
        (unfinished / f'{name}.txt').write_text(
            ''.join(f'{folder}/{file.name}\n' for file in sorted((unfinished / folder).iterdir()))
        )
    unfinished.rename(out)
    print(f'{sum(counts.values())} scenes with labels and {unlabelled} without written to {out}')


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
