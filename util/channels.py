"""Fit the weights of a model to images of another number of channels.

An image whose channels are all alike then gets the same answer as from the file's model. For fewer
channels the weights are averaged, for more they are repeated, and then scaled to keep their sum.
For 1, 6, 9 ... channels from 3, this is what timm's `adapt_input_conv` does.
"""

import numpy as np

PROJECTION = 'patch_embed.proj.weight'
PREDICTION = 'decoder_pred.'


def adapt(own: dict, tensors: dict) -> dict[str, str]:
    """Fit a file's tensors, in place, to the channels of the model's; what was done, by name.

    own: the model's tensors by the same names. The patch projection takes channels in, the last
    layer of a masked autoencoder predicts them.
    """
    name = next((name for name in tensors if name.endswith(PROJECTION)), None)
    if name not in own:
        return {}
    theirs = tensors[name].shape[1]
    ours = own[name].shape[1]
    if theirs == ours:
        return {}

    verb = 'averaged' if ours < theirs else 'repeated'
    change = f'{verb} from {theirs} to {ours} channels'
    tensors[name] = fitted(tensors[name], ours, axis=1) * _scale(theirs, ours)
    changes = {name: change}
    inner = 1 if 'decoder_embed.weight' in tensors else 4  # SimMIM predicts 2 x 2 patches at a time
    for name, array in tensors.items():
        if not name.startswith(PREDICTION) or name not in own:
            continue
        split = array.reshape(*array.shape[:-1], -1, theirs, inner)  # [..., pixels, channels, 1]
        tensors[name] = fitted(split, ours, axis=-2).reshape(*array.shape[:-1], -1)
        changes[name] = change
    return changes


def fitted(array: np.ndarray, count: int, axis: int) -> np.ndarray:
    """An array with `count` channels: their average for fewer, or else the same ones in turn."""
    if count < array.shape[axis]:
        average = array.mean(axis, keepdims=True)
        return np.repeat(average, count, axis)
    in_turn = np.arange(count) % array.shape[axis]
    return array.take(in_turn, axis)


def _scale(theirs: int, ours: int) -> np.ndarray:
    """The factor of each channel's weights, [ours, 1, 1] or [1]: their sum stays the same."""
    if ours < theirs:
        return np.float32([theirs / ours])
    in_turn = np.arange(ours) % theirs
    repeated = np.bincount(in_turn)[in_turn]  # how often each is there
    return (1 / repeated).astype('float32').reshape(-1, 1, 1)
