"""timm's policies, erasing and mixing, with the draws that led to each result."""

import json
import random
import sys

import numpy as np
import torch_ready  # noqa: F401  before timm

# isort: split
import recording
import torch
from PIL import Image
from timm.data import auto_augment, mixup, random_erasing
from torchvision.transforms import functional as F

draws = recording.Draws()
auto_augment.random = random_erasing.random = recording.Random(draws)
auto_augment.np = mixup.np = recording.Numpy(draws)
make_pixels = random_erasing._get_pixels


def noted_pixels(per_pixel, rand_color, size, **kwargs):
    pixels = make_pixels(per_pixel, rand_color, size, **kwargs)
    if per_pixel or rand_color:
        draws.note('standard_normal', pixels.numpy())
    return pixels


random_erasing._get_pixels = noted_pixels


def seeded(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    draws.clear()


def policy(given, case, seed):
    image = Image.fromarray(given[case['picture']])
    hparams = {
        'translate_const': int(min(image.size) * 0.45),
        'img_mean': tuple(min(255, round(255 * x)) for x in (0.485, 0.456, 0.406)),
    }
    if case['bicubic']:
        hparams['interpolation'] = Image.BICUBIC
    name = case['aa']
    if name.startswith('rand'):
        make = auto_augment.rand_augment_transform
    elif name.startswith('augmix'):
        hparams['translate_pct'] = 0.3
        make = auto_augment.augment_and_mix_transform
    else:
        make = auto_augment.auto_augment_transform
    transform = make(name, hparams)
    seeded(seed)
    return np.asarray(transform(image))


def erasing(given, case, seed):
    image = torch.tensor(given['image'])
    transform = random_erasing.RandomErasing(
        0.9, mode=case['mode'], max_count=case['count'], device='cpu'
    )
    seeded(seed)
    return transform(image).numpy()


def mixing(given, case, seed):
    images, labels = torch.tensor(given['images']), torch.tensor(given['labels'])
    transform = mixup.Mixup(
        case['mixup'],
        case['cutmix'],
        case['minmax'],
        case['prob'],
        0.5,
        case['mode'],
        label_smoothing=case['smoothing'],
        num_classes=10,
    )
    seeded(seed)
    images, targets = transform(images, labels)
    return np.concatenate([images.numpy().ravel(), targets.numpy().ravel()])


def jitter(given, case, seed):
    image = Image.fromarray(given[case['picture']])
    change = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    for index in case['order']:
        image = change[index](image, case['factors'][index])
    return np.asarray(image)


def evaluation(given, case, seed):
    image = Image.fromarray(given[case['picture']])
    image = F.resize(image, case['short'], F.InterpolationMode.BICUBIC)
    image = F.center_crop(image, [case['size'], case['size']])
    return F.normalize(F.to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).numpy()


def main(given, computed):
    given, results, noted = dict(np.load(given)), {}, []
    cases = json.loads(str(given['cases']))
    make = globals()[str(given['what'])]
    for number, case in enumerate(cases):
        results[f'result{number}'] = make(given, case, seed=case.get('seed', number))
        noted.append(list(draws))
    np.savez(computed, draws=json.dumps(noted), **results)


main(*sys.argv[1:])
