"""The operations of a case, from which the time follows that they take at the machine's own rate of matrix products."""
from cases import Case

from util.recipes import cost
from util.weights.sizes import SIZES

PASSES = {'pretrain': 3, 'finetune': 3, 'segment': 3, 'processes': 3, 'infer': 1, 'export': 1}  # backward is two forwards
CLASSES = 150  # of the segmentor
SEGMENTOR = {'base_patch16': (768, 256), 'nano_patch4': (32, 16)}  # channels of UPerNet's head and of the auxiliary one


def products(case: Case) -> list[tuple[int, int, int]]:
    """(rows, inner, columns) of the matrix products of one block of the encoder, and of the decoder where there is one."""
    if case.kind not in PASSES or case.model not in SIZES:
        return []
    size, kept, tokens = _tokens(case)
    parts = [(kept, size.width)]
    if case.kind in ('pretrain', 'processes'):
        parts.append((tokens, size.decoder_width))
    return [(case.batch * rows, inner * width, outer * width) for rows, width in parts
            for inner, outer in ((1, 3), (1, 1), (1, 4), (4, 1))]


def operations(case: Case) -> float:
    """Floating-point operations of a step; norms, softmax, activations, biases and the optimizer are not counted."""
    if case.kind not in PASSES or case.model not in SIZES:
        return 0.0
    size, kept, tokens = _tokens(case)
    pixels = 3 * size.patch ** 2
    macs = (tokens - 1) * pixels * size.width + size.depth * cost.block(kept, size.width)
    if case.kind in ('pretrain', 'processes'):
        macs += kept * size.width * size.decoder_width + tokens * size.decoder_width * pixels
        macs += size.decoder_depth * cost.block(tokens, size.decoder_width)
    elif case.kind == 'segment':
        macs += _upernet(case.side // size.patch, size.width, *SEGMENTOR[case.model])
    else:
        macs += 1000 * size.width
    return 2.0 * PASSES[case.kind] * macs * case.batch


def _tokens(case: Case):
    """The model's size; tokens of the encoder and of all patches, with the class token."""
    size = SIZES[case.model]
    patches = (case.side // size.patch) ** 2
    masked = case.kind in ('pretrain', 'processes')
    return size, (int(patches * (1 - case.mask_ratio)) if masked else patches) + 1, patches + 1


def _upernet(side: int, width: int, channels: int, auxiliary: int) -> int:
    """Multiply-adds of the neck and both heads over four maps of side x side cells (seg/model.py)."""
    cells = side ** 2
    neck = 4 * width ** 2 * (cells + 4 * cells + cells)  # transposed convolutions of 2 x 2, from 1 to 2 to 4 times the side
    pools = (1 + 4 + 9 + 36) * width * channels + 9 * (cells // 4) * (width + 4 * channels) * channels
    pyramid = (16 + 4 + 1) * cells * (width * channels + 9 * channels ** 2)
    last = 16 * cells * (9 * 4 * channels * channels + channels * CLASSES)
    return neck + pools + pyramid + last + cells * (9 * width * auxiliary + auxiliary * CLASSES)
