"""torchvision's crop, resize, flip and normalisation of PIL pictures, for given boxes and flips."""

import sys

import numpy as np
import torch_ready  # noqa: F401  before torchvision

# isort: split
from PIL import Image
from torchvision.transforms import functional as F


def main(given, computed):
    given, results = dict(np.load(given)), []
    mean, std, size = given['mean'].tolist(), given['std'].tolist(), int(given['size'])
    for picture, (left, top, right, bottom), flip in zip(
        given['picture'], given['boxes'].tolist(), given['flips']
    ):
        image = Image.fromarray(given[f'picture{picture}'])
        image = F.resized_crop(
            image, top, left, bottom - top, right - left, [size, size], F.InterpolationMode.BICUBIC
        )
        image = F.hflip(image) if flip else image
        results.append(F.normalize(F.to_tensor(image), mean, std).numpy())
    np.savez(computed, results=np.stack(results))


main(*sys.argv[1:])
