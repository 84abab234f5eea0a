"""ImageNet as it is distributed: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, the devkit.

The training archive holds one archive for each class. The validation images are flat; the devkit
(ILSVRC2012_devkit_t12.tar.gz, beside the archive) gives each a number in an order of its own, and
its meta.mat says which class that number is. Labels are those of sorted class folders.
"""

import io
import os
import tarfile
from pathlib import Path

from util.data.archives import tar
from util.data.archives.listing import Listing, is_hidden, suffix_of
from util.errors import InputError

VAL = 'ILSVRC2012_val_'  # how the names of the validation images begin
DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'
TRUTH = 'ILSVRC2012_validation_ground_truth.txt'
META = 'meta.mat'
LARGEST = 2**26  # bytes of a member of the devkit


def is_train(path: str) -> bool:
    """Whether an archive holds archives."""
    first = tar.first(path)
    return first is not None and first.name.lower().endswith('.tar')


def pieces(path: str) -> list[tar.Member]:
    """The archives inside the training archive."""
    with open(path, 'rb') as file:
        found = [member for member in tar.members(file, path) if member.is_file]
    others = [member.name for member in found if not member.name.lower().endswith('.tar')]
    if others:
        raise InputError(
            f'{path} holds archives, as ImageNet does, but also {others[0]}; expected .tar only'
        )
    return sorted(found, key=lambda member: member.name)


def listing(path: str, piece: tar.Member, suffixes: tuple[str, ...]) -> Listing:
    """The images of one class, each named <class>/<image>."""
    found = Listing()
    name = os.path.basename(piece.name).removesuffix('.tar')
    end = piece.offset + piece.length
    with open(path, 'rb') as file:
        for member in tar.members(file, f'{path}/{piece.name}', piece.offset, end):
            if not member.is_file:
                continue
            if is_hidden(member.name):
                found.left_out['hidden files'] += 1
            elif member.name.lower().endswith(suffixes):
                found.add(f'{name}/{member.name}', member.offset, member.length)
            else:
                found.left_out[suffix_of(member.name)] += 1
    return found


def is_val(found: Listing) -> bool:
    """Whether a listing is that of the validation archive, without labels."""
    return bool(found.names) and all(name.startswith(VAL) for name in found.names)


def with_classes(path: str, found: Listing) -> Listing:
    """The validation images, each named <class>/<image> by the devkit beside the archive.

    Unchanged where there is no devkit.
    """
    devkit = Path(path).with_name(DEVKIT)
    if not devkit.is_file():
        return found
    classes = read_devkit(devkit)
    if len(classes) < len(found.names):
        raise InputError(
            f'{devkit} has labels of {len(classes)} images, but {path} holds {len(found.names)}'
        )
    names = []
    for name in found.names:
        number = name.removeprefix(VAL).split('.')[0]
        if not number.isdecimal() or not 1 <= int(number) <= len(classes):
            raise InputError(f'{path}/{name}: {devkit} has no label for it')
        names.append(f'{classes[int(number) - 1]}/{name}')
    return Listing(names, found.offsets, found.lengths, found.labels, left_out=found.left_out)


def read_devkit(path: Path) -> list[str]:
    """The class (as n01440764) of each validation image, in the order of their numbers."""
    from scipy.io import loadmat  # takes a moment; few need it

    try:
        with tarfile.open(path) as archive:
            contents = {}
            for member in archive:
                base = os.path.basename(member.name)
                if base in (TRUTH, META) and member.isreg() and member.size <= LARGEST:
                    contents[base] = archive.extractfile(member).read()
        synsets = loadmat(io.BytesIO(contents[META]), squeeze_me=True)['synsets']
        leaves = [synset for synset in synsets if not synset['num_children']]
        names = {int(synset['ILSVRC2012_ID']): str(synset['WNID']) for synset in leaves}
        return [names[int(number)] for number in contents[TRUTH].split()]
    except KeyError as error:
        raise InputError(f'{path}: the devkit lacks {error}') from None
    except Exception as error:  # tarfile and SciPy raise many kinds for broken files
        raise InputError(f"{path} cannot be read as ImageNet's devkit ({error})") from None
