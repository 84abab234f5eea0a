"""Pictures for the cases that read files.

They are smooth noise, so that a JPEG of 500 x 375 has about ImageNet's size (65 KB).
"""

import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

COUNT = 64
AT_ONCE = 8  # a batch of `folder`
QUALITY = 90


def make(folder: Path, count: int, width: int, height: int, suffix: str = '.jpg') -> Path:
    """A folder for --data_path, made once: `count` pictures of two classes in train and in val."""
    for split in ('train', 'val') if not folder.exists() else ():
        for number in range(count):
            rng = np.random.default_rng([number, split == 'val'])
            coarse = rng.integers(0, 256, [-(-height // 25), -(-width // 25), 3], 'uint8')
            coarse = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
            fine = Image.fromarray(rng.integers(0, 256, [height, width, 3], 'uint8')).filter(
                ImageFilter.GaussianBlur(1)
            )
            file = folder / split / str(number % 2) / f'{number:02}{suffix}'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.blend(coarse, fine, 0.4).save(file, quality=QUALITY)
    return folder


def seconds(files: list) -> float:
    """The seconds of decoding the files, a floor for every loader; the best of three times."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for file in files:
            with Image.open(file) as picture:
                picture.convert('RGB')
        times.append(time.perf_counter() - start)
    return min(times)
