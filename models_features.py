"""Features of an encoder: of its class token, the mean of its patches, or all patches.

Without blocks, a ViT's tokens are those of timm's `forward_features` (the last block's, through
`norm` if the model has it). Where `fc_norm` stands before the head, the mean goes through it.
With blocks, tokens are as these blocks give them, without a normalisation: those of timm's
`get_intermediate_layers`, numbered from 0 as there.
Shapes: N images, L patches, D width; maps of pyramids are [N, rows, columns, D].
"""

import paddle

import models_sizes
import models_start
import models_zoo
from layer import Pyramid
from models_classifier import Classifier
from models_mae import Reconstruction
from util import convert, sizes
from util.convert import names
from util.convert.report import Report
from util.errors import InputError

FEATURES = ('cls', 'mean', 'patches')


class Features:
    """Images [N, C, height, width] -> features by name: `features`, or `block3` and so on.

    feature: one of FEATURES, None for the one that the head sees; [N, D] for the first two, else
    [N, L, D]. blocks: their numbers, None for the output of the encoder. InputError if the model
    lacks one of them.
    """

    def __init__(
        self, model: Classifier, feature: str | None = None, blocks: list[int] | None = None
    ):
        self.model = model
        self.has_class_token = hasattr(model, 'cls_token')
        self.feature = feature or ('mean' if model.global_pool else 'cls')
        if self.feature == 'cls' and not self.has_class_token:
            raise InputError(
                f'--feature cls: a {type(model).__name__} has no class token; '
                'choose --feature mean or --feature patches'
            )

        self.blocks = list(dict.fromkeys(blocks or []))  # without repetitions
        last = len(model.blocks) - 1
        for block in self.blocks:
            if block > last:
                raise InputError(f'--blocks {block}: the model has the blocks 0 to {last}')

    def __call__(self, images: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """The features of these images."""
        return self.of(block_tokens(self.model, images))

    def of(self, outputs: list[paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """The features of images with these block_tokens."""
        names_of_all = [f'block{block}' for block in self.blocks] or ['features']
        tokens = self._tokens(outputs)
        return {name: self._choose(x) for name, x in zip(names_of_all, tokens)}

    def _tokens(self, outputs: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """Tokens [N, L, D] of the asked blocks, or of the encoder."""
        if self.blocks:
            return [outputs[block] for block in self.blocks]
        last = outputs[-1]
        if not self.model.global_pool:
            last = self.model.norm(last)
        return [last]

    def _choose(self, tokens: paddle.Tensor) -> paddle.Tensor:
        """The asked feature of tokens [N, L, D]."""
        if self.feature == 'cls':
            return tokens[:, 0]
        patches = tokens[:, 1:] if self.has_class_token else tokens
        if self.feature == 'patches':
            return patches
        mean = patches.mean(1)  # [N, D]
        if self.model.global_pool and not self.blocks:
            mean = self.model.fc_norm(mean)
        return mean


def block_tokens(model: Classifier, images: paddle.Tensor) -> list[paddle.Tensor]:
    """Tokens [N, L, D] after each block, with the class token first if there is one."""
    if hasattr(model, 'cls_token'):
        return model.block_features(images)
    return [x.flatten(1, 2) for x in model.features(images)]


class ManyFeatures:
    """Images -> by name, every feature that an evaluation of a frozen encoder may want.

    `cls` and `mean` are those of the encoder's output; `cls b11` and `mean b11` those of block 11,
    for each of the last `blocks` blocks; with `patches`, PATCHES are all patches of the output. A
    model without class token has no `cls`.
    width: D of the output.
    """

    PATCHES = 'patches'

    def __init__(self, model: Classifier, blocks: int, patches: bool = False):
        if blocks > len(model.blocks):
            raise InputError(f'--blocks {blocks}: the model has {len(model.blocks)} blocks')
        self.model = model
        self.width = model.width if isinstance(model, Pyramid) else model.pos_embed.shape[2]
        last = len(model.blocks) - 1
        pools = ['cls', 'mean'] if hasattr(model, 'cls_token') else ['mean']
        self.parts = {}
        for pool in pools:
            self.parts[pool] = Features(model, pool)
        for block in range(last, last - blocks, -1):
            for pool in pools:
                self.parts[f'{pool} b{block}'] = Features(model, pool, [block])
        if patches:
            self.parts[self.PATCHES] = Features(model, 'patches')

    def __call__(self, images: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """The features of these images; the encoder runs once."""
        outputs = block_tokens(self.model, images)
        found = {}
        for name, part in self.parts.items():
            (found[name],) = part.of(outputs).values()
        return found


def model_from(path: str, use_ema: bool = False, **asked) -> tuple[Classifier, dict]:
    """The model in a weight file that has an encoder, ready for Features, and its properties.

    asked: see models_zoo.classifier_from; a file without a head takes model, input_size
    and patch_size alone.
    Properties: at least model, input_size, in_chans, and mean and std if the file says them.
    """
    converted = convert.read(path, use_ema=use_ema)
    if names.kind(converted[0]['model']) in names.CLASSIFIERS:
        return models_zoo.classifier_from(path, converted=converted, **asked)

    for head in ('nb_classes', 'global_pool'):
        if asked.get(head) is not None:
            raise InputError(
                f'{path} has no head; leave out --nb_classes, --global_pool and --cls_token'
            )
    own = [asked.get(flag) for flag in ('model', 'input_size', 'patch_size')]
    return encoder_from(converted, path, *own)


def encoder_from(
    converted: tuple[dict, Report],
    path: str,
    name: str | None = None,
    input_size: sizes.Size | None = None,
    patch_size: int | None = None,
) -> tuple[Classifier, dict]:
    """The encoder in the file of a pre-training, as linear probing has it, and its properties.

    converted: what convert.read has given for the file `path`.
    Properties: model, input_size, patch_size (of a vision transformer), in_chans, and mean and std
    (None where the file does not say).
    name and input_size: for files that do not tell them, or for another size. patch_size must be
    the file's, if given. InputError if the file does not tell its model, or holds something else.
    """
    state = converted[0]
    kind = names.kind(state['model'])
    if kind not in (names.ENCODER, names.AUTOENCODER):
        raise InputError(f'{path} holds {kind}; name a classifier or a pre-trained encoder')
    flags = state.get('args', {})
    known = models_sizes.said_by(state['model'], sizes.image_sides(flags))
    name = name or known.get('model')
    if not name:
        raise InputError(f'{path} does not say its model; give --model')
    size = known['input_size'] if input_size is None else input_size
    patch_size = patch_size or known.get('patch_size')
    model = headless(name, known['in_chans'], size, patch_size)
    models_start.start_with(model, converted, path)

    known |= {'model': name, 'input_size': size}
    known |= {flag: flags.get(flag) for flag in ('mean', 'std')}
    return model, known


def encoder_of(model: Reconstruction) -> Classifier:
    """A copy of the encoder in a masked autoencoder, as encoder_from makes it of a checkpoint."""
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    flags = {'input_size': list(model.img_size)}
    what = 'the masked autoencoder'
    encoder, _ = encoder_from(({'model': tensors, 'args': flags}, Report(what)), what)
    return encoder


def headless(
    name: str,
    in_chans: int,
    input_size: sizes.Size | None = None,
    patch_size: int | None = None,
) -> Classifier:
    """A new encoder with random weights, as linear probing has it; its head has no meaning.

    input_size, patch_size: None for the usual ones of the model.
    """
    size = {} if input_size is None else {'img_size': input_size}
    model = models_zoo.classifier(
        name,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=1,
        global_pool=not name.startswith('vit_'),
        **size,
    )
    model.eval()
    return model
