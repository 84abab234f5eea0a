"""The validation images of a classifier, each with the number of its class among the outputs."""

from imagenet_classes import SYNSETS
from util.classes import listed
from util.data import lists
from util.data.folder import Paths, find_labelled, typed
from util.data.images import Images, by_names
from util.errors import InputError


def evaluation_images(
    data_path: Paths,
    suffixes: tuple[str, ...],
    outputs: int,
    *,
    path: str,
    names: list[str] | None,
    class_names: str | None,
    index_dir: str = '',
) -> Images:
    """The validation images, labelled by their class folder's place among a classifier's outputs.

    path: the weight file. names: the classes that it lists; the folders must be exactly these.
    class_names: the file of --class_names, which overrides `names`; the folders may be some of its
    lines. Without either, a classifier with 1000 outputs accepts folders named by ImageNet's ids,
    and any other needs one folder for each output. Lists of images contain their labels.
    index_dir: where the indexes of archives are kept.
    """
    if names and not class_names:
        return find_labelled(data_path, 'val', suffixes, outputs, names, index_dir=index_dir)

    if class_names:
        names = read_names(class_names, outputs)
    images = find_labelled(data_path, 'val', suffixes, outputs, index_dir=index_dir)
    folders = images.classes
    if folders is None:  # a list of images
        return images

    if not names and outputs == len(SYNSETS) and set(folders) <= set(SYNSETS):
        names = SYNSETS
    if names:
        return _by_names(images, names)
    if len(folders) != outputs:
        raise InputError(
            f'{path} does not name its classes, and --data_path {typed(data_path)} has '
            f'{len(folders)} class folders for {outputs} outputs, so it is unknown which belongs '
            'to which; give --class_names FILE with the name of a folder in each line, in the '
            'order of the outputs'
        )
    return images


def _by_names(images: Images, names: list[str]) -> Images:
    """Images, labelled by the place of their class folder among `names`."""
    known = set(names)
    unknown = [folder for folder in images.classes if folder not in known]
    if unknown:
        raise InputError(
            f'these class folders are not among the names of classes: {listed(unknown)}; '
            f'the names are: {listed(names)}'
        )
    return by_names(images, names)


def output_names(outputs: int, names: list[str] | None, class_names: str | None) -> list[str]:
    """The class folder of each output: of --class_names, else of the weight file, else ImageNet's.

    names: the classes that the weight file lists, if any. [] where nothing tells them.
    """
    if class_names:
        return read_names(class_names, outputs)
    return names or (SYNSETS if outputs == len(SYNSETS) else [])


def read_names(file: str, outputs: int) -> list[str]:
    """The names in the file of --class_names, one for each of a model's outputs."""
    entries = lists.read(file, 'list of class names', name=f'--class_names {file}')
    names = [name for _, name in entries]
    if len(names) != outputs:
        raise InputError(
            f'--class_names {file} has {len(names)} lines, but the model has {outputs} classes'
        )
    return names
