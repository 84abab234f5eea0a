"""The operations of a case, and so the least time that they take at the machine's matrix rate."""

from cases import Case

from models_sizes import SIZES
from recipes import cost
from util import masking

# backward is two forwards
PASSES = {'pretrain': 3, 'finetune': 3, 'segment': 3, 'processes': 3, 'infer': 1, 'export': 1}
MASKED = ('pretrain', 'processes')
CLASSES = 150  # of the segmentor
# channels of UPerNet's head and of the auxiliary one
SEGMENTOR = {'base_patch16': (768, 256), 'nano_patch4': (32, 16)}


def products(case: Case) -> list[tuple[int, int, int]]:
    """(rows, inner, columns) of the matrix products of one block of the encoder and any decoder.

    None for products in bfloat16, of which the rate is not measured.
    """
    if case.kind not in PASSES or case.model not in SIZES or case.what == 'bfloat16':
        return []
    size = SIZES[case.model]
    patches = (case.side // size.patch) ** 2
    masked = case.kind in MASKED
    parts = [
        ((masking.num_visible(patches, case.mask_ratio) if masked else patches) + 1, size.width)
    ]
    if masked:
        parts.append((patches + 1, size.decoder_width))
    return [
        (case.batch * rows, inner * width, outer * width)
        for rows, width in parts
        for inner, outer in ((1, 3), (1, 1), (1, 4), (4, 1))
    ]


def operations(case: Case) -> float:
    """Floating-point operations of a step.

    Norms, softmax, activations, biases and the optimizer are not counted.
    """
    if case.kind not in PASSES or case.model not in SIZES:
        return 0.0
    if case.kind in MASKED:
        macs = cost.multiply_adds(f'mae_vit_{case.model}', case.side, case.mask_ratio)
    elif case.kind == 'segment':
        size = SIZES[case.model]
        macs = cost.multiply_adds(f'vit_{case.model}', case.side, classes=0) + _upernet(
            case.side // size.patch, size.width, *SEGMENTOR[case.model]
        )
    else:
        macs = cost.multiply_adds(f'vit_{case.model}', case.side)
    return 2.0 * PASSES[case.kind] * macs * case.batch


def _upernet(side: int, width: int, channels: int, auxiliary: int) -> int:
    """Multiply-adds of the neck and both heads over four maps of side x side (seg/model.py)."""
    cells = side**2
    # transposed convolutions of 2 x 2, from 1 to 2 to 4 times the side
    neck = 4 * width**2 * (cells + 4 * cells + cells)
    pools = (1 + 4 + 9 + 36) * width * channels
    pools += 9 * (cells // 4) * (width + 4 * channels) * channels
    pyramid = (16 + 4 + 1) * cells * (width * channels + 9 * channels**2)
    last = 16 * cells * (9 * 4 * channels * channels + channels * CLASSES)
    return neck + pools + pyramid + last + cells * (9 * width * auxiliary + auxiliary * CLASSES)
