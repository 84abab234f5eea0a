"""Write crops of six photographs: training has one part of each, validation another.

    python demo/make_photographs.py --out demo/data/photographs

The photographs come with scikit-learn and scikit-image; demo/weights/README.md names authors and
licences. Validation has an upright band of each, which no crop for training touches. Layout:
<out>/{train,val}/<photograph>/<number>.png. It needs scikit-image:

    pip install -r requirements/weights.txt
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

BAND = (0.55, 0.8)  # of the width: held out
COUNTS = {'train': 450, 'val': 16}  # crops of each photograph
SIDES = {'train': (64, 144), 'val': (64, 108)}  # of a crop in the photograph, in pixels
# of a written crop: that of the model for validation, larger for training, which crops once more
WRITTEN = {'train': 96, 'val': 64}


def main(out: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 0
    # renamed at the end: half a data set must not look like a whole one
    unfinished = out.with_name(f'{out.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    for name, photograph in photographs().items():
        parts_of = split_parts(photograph)
        for split, parts in parts_of.items():
            folder = unfinished / split / name
            folder.mkdir(parents=True)
            for number in range(COUNTS[split]):
                part = choose(rng, parts)
                crop = square(rng, part, SIDES[split], WRITTEN[split])
                crop.save(folder / f'{number:03}.png')
            count += COUNTS[split]
    unfinished.rename(out)
    print(f'{count} crops written to {out}')


def photographs() -> dict[str, np.ndarray]:
    """The photographs by name, uint8 [height, width, 3]."""
    import skimage.data  # imported here because this script alone needs it

    return {
        'astronaut': skimage.data.astronaut(),
        'cat': skimage.data.chelsea(),
        'coffee': skimage.data.coffee(),
        'rocket': skimage.data.rocket(),
        'china': load_sample_image('china.jpg'),
        'flower': load_sample_image('flower.jpg'),
    }


def split_parts(photograph: np.ndarray) -> dict[str, list[np.ndarray]]:
    """The parts of a photograph [height, width, 3] that each split may use."""
    width = photograph.shape[1]
    left, right = round(BAND[0] * width), round(BAND[1] * width)
    return {
        'train': [photograph[:, :left], photograph[:, right:]],
        'val': [photograph[:, left:right]],
    }


def choose(rng: np.random.Generator, parts: list[np.ndarray]) -> np.ndarray:
    """One of the parts, the more often the larger it is."""
    sizes = np.array([part.size for part in parts])
    return parts[rng.choice(len(parts), p=sizes / sizes.sum())]


def square(
    rng: np.random.Generator, part: np.ndarray, sides: tuple[int, int], written: int
) -> Image.Image:
    """A random square of a part, its side between the two `sides`, resized to `written` pixels."""
    height, width, _ = part.shape
    most = min(sides[1], height, width)
    side = int(rng.integers(min(sides[0], most), most + 1))
    top = rng.integers(height - side + 1)
    left = rng.integers(width - side + 1)
    crop = Image.fromarray(part[top : top + side, left : left + side])
    return crop.resize((written, written), Image.BICUBIC)


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument('--out', type=Path, default=Path('demo/data/photographs'), help='new folder')
PARSER.add_argument('--seed', type=int, default=0, help='seed of the places and sizes of crops')

if __name__ == '__main__':
    args = PARSER.parse_args()
    target = args.out.resolve()
    if target.exists():
        PARSER.error(f'--out {target} exists already; name a new folder')
    try:
        main(target, args.seed)
    except ModuleNotFoundError as error:
        PARSER.error(f'{error.name} is missing: pip install -r requirements/weights.txt')
