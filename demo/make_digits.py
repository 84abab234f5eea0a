"""Write scikit-learn's scanned digits as an image folder, <out>/{train,val}/<digit>/<number>.png.

    python demo/make_digits.py --out demo/data/digits

1797 scans of 8 x 8 grey levels (UCI "Optical Recognition of Handwritten Digits"), enlarged to
32 x 32, so that one patch of the nano model is one scanned pixel. Every fifth scan of a class is
held out for validation. The folder <out>100 beside it has lists with ten labels of each digit for
training, and with all of validation.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32  # pixels
LABELS = 10  # of each digit in the small set
WHITE = 16  # the highest grey level of a scan


def main(out: Path) -> None:
    digits = load_digits()
    # renamed at the end: half a data set must not look like a whole one
    unfinished = out.with_name(f'{out.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)

    counts = dict.fromkeys(range(10), 0)
    for number, (scan, digit) in enumerate(zip(digits.images, digits.target)):
        split = 'val' if counts[digit] % 5 == 4 else 'train'
        counts[digit] += 1
        file = unfinished / split / str(digit) / f'{number:04}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        enlarged(scan).save(file)
    unfinished.rename(out)

    few = out.with_name(f'{out.name}100')
    few.mkdir(exist_ok=True)
    write_list(few / 'train.txt', out / 'train', LABELS)
    write_list(few / 'val.txt', out / 'val', None)
    print(f'{sum(counts.values())} digits written to {out}')


def enlarged(scan: np.ndarray) -> Image.Image:
    """A scan [8, 8] as a grey picture of 32 x 32 pixels."""
    levels = (scan * 255 / WHITE).round()
    picture = Image.fromarray(levels.astype('uint8'))
    return picture.resize((SIDE, SIDE), Image.BICUBIC)


def write_list(path: Path, split: Path, most: int | None) -> None:
    """List the first `most` pictures of each digit, or all, as lines of relative path and digit."""
    lines = []
    for folder in sorted(split.iterdir()):
        for file in sorted(folder.iterdir())[:most]:
            relative = file.relative_to(split.parent.parent)
            lines.append(f'../{relative} {folder.name}\n')
    path.write_text(''.join(lines))


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument('--out', type=Path, default=Path('demo/data/digits'), help='folder to write')

if __name__ == '__main__':
    target = PARSER.parse_args().out.resolve()
    if target.exists():
        PARSER.error(f'--out {target} exists already; name a new folder')
    main(target)
