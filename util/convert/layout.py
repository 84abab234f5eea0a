"""Stems in names, and the layout of Linear weights, which both directions of a conversion need."""

import re


def split(name: str, stems: dict) -> tuple[str, str, str]:
    """The stem of a name, the number of its block and its suffix; '' for a missing part.

    A number belongs to the stem where `stems` has it so: `head.1` is a stem.
    """
    stem, suffix = name, ''
    for end in ('.weight', '.bias'):
        if name.endswith(end):
            stem, suffix = name.removesuffix(end), end

    number = re.search(r'(?<=\.)\d+(?=\.)', stem)
    if stem in stems or not number:
        return stem, '', suffix
    before, after = stem[: number.start()], stem[number.end() :]
    return before + '{}' + after, number[0], suffix


def transposed(model: dict) -> dict:
    """The tensors with Linear weights in the other framework's layout."""
    turned = {}
    for name, array in model.items():
        linear = array.ndim == 2 and name.endswith('.weight')
        turned[name] = array.T if linear else array
    return turned
