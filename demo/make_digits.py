"""Write scikit-learn's scanned digits as an image folder: <out>/{train,val}/<digit>/<number>.png; and beside it, in
<out>100, lists with ten labels of each digit for training and all of validation.

    python demo/make_digits.py --out demo/data/digits

1797 scans of 8 x 8 grey levels (UCI "Optical Recognition of Handwritten Digits"), enlarged to 32 x 32, so that one
patch of the nano model is one scanned pixel. Every fifth scan of a class is held out for validation.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32  # pixels
LABELS = 10  # of each digit in the small set


def main(out: Path) -> None:
    digits = load_digits()
    # renamed at the end: half a data set must not look like one
    unfinished = out.with_name(out.name + '.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    counts = dict.fromkeys(range(10), 0)
    for number, (scan, digit) in enumerate(zip(digits.images, digits.target)):
        split = 'val' if counts[digit] % 5 == 4 else 'train'
        counts[digit] += 1
        file = unfinished / split / str(digit) / f'{number:04}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((scan * 255 / 16).round().astype('uint8'))
        picture.resize((SIDE, SIDE), Image.BICUBIC).save(file)
    unfinished.rename(out)
    few = out.with_name(out.name + '100')
    few.mkdir(exist_ok=True)
    for split, most in (('train', LABELS), ('val', None)):
        files = [
            file
            for digit in sorted((out / split).iterdir())
            for file in sorted(digit.iterdir())[:most]
        ]
        lines = [f'../{file.relative_to(out.parent)} {file.parent.name}\n' for file in files]
        (few / f'{split}.txt').write_text(''.join(lines))
    print(f'{sum(counts.values())} digits written to {out}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out', type=Path, default=Path('demo/data/digits'), help='folder to write'
    )
    target = parser.parse_args().out.resolve()
    if target.exists():
        parser.error(f'--out {target} exists already; name a new folder')
    main(target)
