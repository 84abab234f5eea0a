"""Describe the images of a data set in one line, which programs print when they start."""

import numpy as np

from util.classes import listed
from util.data.images import Images


def line(what: str, images: Images) -> str:
    """How many images there are, their smallest and largest class, and what was left out.

    what: the name of the images, as `training`. Of classes of the same size, the first is named.
    """
    noun = 'image' if len(images) == 1 else 'images'
    parts = [f'{what}: {len(images)} {noun}']
    if images.labels is not None:
        parts.append(_classes(images))
    reasons = []
    for reason, count in images.left_out.most_common():
        if count:
            reasons.append(f'{reason} ({count})')
    if reasons:
        parts.append(f'left out: {listed(reasons)}')
    return '; '.join(parts)


def _classes(images: Images) -> str:
    """The number of classes that have images, the smallest and the largest of them."""
    labels, counts = np.unique(images.labels, return_counts=True)
    noun = 'class' if len(labels) == 1 else 'classes'
    ends = []
    for what, place in (('smallest', counts.argmin()), ('largest', counts.argmax())):
        label = labels[place]
        name = images.classes[label] if images.classes else f'label {label}'
        ends.append(f'{what} {name} with {counts[place]}')
    return f'{len(labels)} {noun}, {", ".join(ends)}'
