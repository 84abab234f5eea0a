"""Which output of a classifier a class folder belongs to."""

from imagenet_classes import SYNSETS
from util.classes import listed
from util.data import lists
from util.data.folder import Images, find_labelled
from util.errors import InputError


def evaluation_images(
    data_path: str,
    suffixes: tuple[str, ...],
    outputs: int,
    *,
    path: str,
    names: list[str] | None,
    class_names: str | None,
) -> Images:
    """The validation images, each class folder with the label that it has among a classifier's outputs.

    names: what the weights in `path` say, and then the folders must be these. class_names: a file that says more; folders
    may be some of its names. Weights with ImageNet's 1000 outputs may have folders named by its ids. Where nobody says
    anything there has to be a folder for each output. Lists say their labels themselves.
    """
    if class_names:
        names = read_names(class_names, outputs)
    elif names:
        return find_labelled(data_path, 'val', suffixes, outputs, names)

    images = find_labelled(data_path, 'val', suffixes, outputs)
    folders = images.classes
    if folders is None:
        return images
    if not names and outputs == len(SYNSETS) and set(folders) <= set(SYNSETS):
        names = SYNSETS
    if names:
        return _by_names(images, names)
    if len(folders) != outputs:
        raise InputError(
            f'{path} does not name its classes, and --data_path {data_path} has {len(folders)} class folders for {outputs} '
            'outputs, so it is unknown which belongs to which; give --class_names FILE with the name of a folder in each '
            'line, in the order of the outputs'
        )
    return images


def _by_names(images: Images, names: list[str]) -> Images:
    """Images with the place of their class folder's name among `names` as label."""
    labels = {name: label for label, name in enumerate(names)}
    unknown = [folder for folder in images.classes if folder not in labels]
    if unknown:
        raise InputError(
            f'no class is called as these class folders: {listed(unknown)}; there are: {listed(names)}'
        )
    return Images(images.paths, [labels[images.classes[label]] for label in images.labels], names)


def read_names(file: str, outputs: int) -> list[str]:
    """The names in a file of --class_names, one for each of a model's outputs."""
    entries = lists.read(file, 'list of class names', name=f'--class_names {file}')
    names = [name for _, name in entries]
    if len(names) != outputs:
        raise InputError(
            f'--class_names {file} has {len(names)} lines, but the model has {outputs} classes'
        )
    return names
