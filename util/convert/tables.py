"""What the tables of names and shapes (names.py, detectors.py) are written with.

A table has a shape for each name under ours. `{}` stands for the number of a block.
"""

import re
from dataclasses import dataclass


def with_bias(stem: str, shape: str) -> dict[str, str]:
    """A Linear layer or a normalisation: weight and bias."""
    return {f'{stem}.weight': shape, f'{stem}.bias': shape.split()[-1]}


def conv(stem: str, shape: str) -> dict[str, str]:
    """A convolution: weight and bias."""
    return {f'{stem}.weight': shape, f'{stem}.bias': shape.split()[0]}


def transposed_conv(stem: str, shape: str) -> dict[str, str]:
    """A transposed convolution, whose weight begins with the inputs: weight and bias."""
    return {f'{stem}.weight': shape, f'{stem}.bias': shape.split()[1]}


def batch_norm(stem: str, width: str) -> dict[str, str]:
    """A batch normalisation: weight, bias and statistics."""
    return {f'{stem}.{part}': width for part in ('weight', 'bias', '_mean', '_variance')}


def normed(stem: str, shape: str, norm: str = 'bn') -> dict[str, str]:
    """A convolution and the normalisation behind it: bn (batch), gn (group) or ln (layer).

    With a normalisation the convolution has no bias; an empty `norm` is for none.
    """
    if not norm:
        return conv(f'{stem}.conv', shape)
    channels = shape.split()[0]
    layer = batch_norm if norm == 'bn' else with_bias
    return {f'{stem}.conv.weight': shape, **layer(f'{stem}.{norm}', channels)}


def block(stack: str, width: str, hidden: str, attention: dict[str, int]) -> dict[str, str]:
    """A transformer block. attention: name of an input projection -> its outputs, in widths."""
    layers = {'norm1': width}
    for projection, times in attention.items():
        layers[f'attn.{projection}'] = f'{width} {times}{width}'
    layers['attn.proj'] = f'{width} {width}'
    layers['norm2'] = width
    layers['mlp.fc1'] = f'{width} {hidden}'
    layers['mlp.fc2'] = f'{hidden} {width}'

    shapes = {}
    for layer, shape in layers.items():
        shapes |= with_bias(f'{stack}.{{}}.{layer}', shape)
    return shapes


def prefixed(prefix: str, shapes: dict[str, str]) -> dict[str, str]:
    """The same shapes with a prefix before their names."""
    return {prefix + name: shape for name, shape in shapes.items()}


def numbered(shapes: dict[str, str], tensors: dict) -> dict[str, str]:
    """The same shapes with the numbers of blocks for {} and those of stages behind letters."""
    # blocks that begin with a downsampling open a new stage
    merges = set()
    for name in tensors:
        if name.startswith('blocks.') and '.downsample.' in name:
            merges.add(int(name.split('.')[1]))

    whole = {}
    for name, shape in shapes.items():
        stack, has_number, part = name.partition('{}')
        if not has_number:
            whole[name] = _in_stage(shape, len(merges) + 1)
            continue
        for i in range(_depth(stack, tensors)):
            if i in merges or not part.startswith('.downsample.'):
                stage = 1 + sum(merge <= i for merge in merges)
                own = shape.replace('{}', str(i))
                whole[f'{stack}{i}{part}'] = _in_stage(own, stage)
    return whole


def _depth(stack: str, tensors: dict) -> int:
    """The number of blocks in a stack; `stack` is the beginning of their names."""
    numbers = []
    for name in tensors:
        if name.startswith(stack):
            number = name.removeprefix(stack).partition('.')[0]
            numbers.append(int(number))
    return max(numbers, default=-1) + 1


def _in_stage(shape: str, stage: int) -> str:
    """A shape in which D, H and N are those of a stage; B becomes D of the stage before."""
    shape = shape.replace('B', f'D{stage - 1}')
    return re.sub(r'([DHN])(?!\d)', rf'\g<1>{stage}', shape)


@dataclass(frozen=True)
class Scheme:
    """Names of a code base: our stem -> its stem, or its three for query, key and value.

    class_position: its table of positions begins with that of a class token, which our model of the
    same weights does not have.
    """

    label: str
    stems: dict[str, str | tuple[str, str, str]]
    class_position: bool = False


def blocks(ours: str, theirs: str, parts: dict) -> dict:
    """Stems of a stack of blocks, from those of a block's parts."""
    result = {}
    for part, names in parts.items():
        if isinstance(names, str):
            result[f'{ours}.{{}}.{part}'] = f'{theirs}.{{}}.{names}'
        else:  # query, key and value
            result[f'{ours}.{{}}.{part}'] = tuple(f'{theirs}.{{}}.{name}' for name in names)
    return result


def stems(*layouts: dict[str, str]) -> dict[str, str]:
    """Our stem -> PyTorch's, which differ for the statistics of a batch normalisation alone."""
    result = {}
    for shapes in layouts:
        for name in shapes:
            if not name.endswith('.bias'):
                stem = name.removesuffix('.weight')
                theirs = stem.replace('._mean', '.running_mean')
                result[stem] = theirs.replace('._variance', '.running_var')
    return result
