"""Variants of ImageNet's validation set, to test robustness: which folder is which, its outputs.

ImageNet-C (arXiv:1903.12261), -A (arXiv:1907.07174) and -R (arXiv:2006.16241), and every other set
with a folder for each of the 1000 classes, such as -Sketch (arXiv:1905.13549).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paddle
from paddle import nn

from imagenet_classes import IMAGENET_A, IMAGENET_R, SYNSETS
from util.classes import listed
from util.corruptions import ALEXNET, SEVERITIES
from util.data import finder
from util.data.folder import Images, scan
from util.errors import InputError

CORRUPTED = 'ImageNet-C'
# The variants with some of the classes, and all of them
CLASSES = {'ImageNet-A': IMAGENET_A, 'ImageNet-R': IMAGENET_R, '': SYNSETS}


@dataclass(frozen=True)
class Variant:
    """A variant in a folder.

    name: ImageNet-C, -A or -R, else the folder's own. classes: its WordNet ids, in the order of its
    labels. places: corruption -> folder of each severity; for the others '' -> the only folder.
    """

    name: str
    classes: list[str]
    places: dict[str, list[Path]]

    @property
    def is_corrupted(self) -> bool:
        """Whether its images were corrupted after they had been cropped."""
        return self.name == CORRUPTED

    def images(self, suffixes: tuple[str, ...]) -> Iterator[tuple[str, Images]]:
        """(corruption, images) of one folder after the other, found when they are needed."""
        for corruption, folders in self.places.items():
            for folder in folders:
                yield corruption, scan(folder, suffixes, self.classes)


class Outputs(nn.Layer):
    """A classifier's scores for some of its outputs: [N, K] -> [N, number of `columns`]."""

    def __init__(self, model: nn.Layer, columns: list[int]):
        super().__init__()
        self.model = model
        self.columns = paddle.to_tensor(columns)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.index_select(self.model(x), self.columns, axis=1)


def outputs_of(model: nn.Layer, names: list[str], classes: list[str]) -> Outputs:
    """The scores of a variant's classes alone. names: the class of each of the model's outputs.

    InputError where the model lacks one of them.
    """
    place = {name: number for number, name in enumerate(names)}
    missing = [name for name in classes if name not in place]
    if missing:
        raise InputError(
            f'--robustness: the weights have no output for {len(missing)} of the classes: '
            f'{listed(missing)}; it is for classifiers of ImageNet-1K. --class_names FILE tells '
            'the id of each output'
        )
    return Outputs(model, [place[name] for name in classes])


def find(data_path: list[str]) -> list[Variant]:
    """The variant in each folder of --data_path; InputError where one is none."""
    return [_variant(Path(path)) for path in data_path]


def _variant(root: Path) -> Variant:
    if not root.is_dir():
        raise InputError(f'--data_path {root}: no such folder')
    corrupted = _corruptions(root)
    if corrupted:
        return Variant(CORRUPTED, SYNSETS, corrupted)

    names, _ = finder.entries(root, finder.ANY)
    for name, classes in CLASSES.items():
        if names == classes:
            return Variant(name or root.resolve().name, classes, {'': [root]})
    raise InputError(
        f'--data_path {root}: this folder is no variant of ImageNet: it has {len(names)} folders, '
        f'{listed(names) or "none"}. Expected are the corruptions of ImageNet-C, the 200 classes '
        'of ImageNet-A or -R, or all 1000 (such as ImageNet-Sketch), named by WordNet ids'
    )


def _corruptions(root: Path) -> dict[str, list[Path]]:
    """Corruption -> folder of each severity, as in ALEXNET; {} where there is none.

    They are in `root`, or in its folders: noise/, blur/, weather/ and digital/ of the archives.
    """
    places = {}
    for corruption in ALEXNET:
        found = [root / corruption, *root.glob(f'*/{corruption}')]
        found = [folder for folder in found if folder.is_dir()]
        if not found:
            continue
        severities = [found[0] / severity for severity in SEVERITIES]
        missing = [folder.name for folder in severities if not folder.is_dir()]
        if missing:
            raise InputError(
                f'--data_path {root}: {found[0]} lacks the severities {", ".join(missing)}; '
                'ImageNet-C has 1 to 5'
            )
        places[corruption] = severities
    return places
