"""The cost of a run: multiply-adds by formula, and hours at the rates that published runs reached.

The recipes of MAE remove three quarters of the patches; the formulas use that as their default.
"""

from dataclasses import replace

from models_sizes import SIZES, Size
from recipes.recipe import IMAGES, Recipe
from util import masking, sizes

# 10^12 operations per second on one V100, loading and evaluation included. From the times published
# by facebookresearch/mae: ViT-L pre-trained for 800 epochs; fine-tuning, by the encoder's width;
# the linear probe of ViT-B.
RATES = {
    'main_pretrain.py': 13.2,
    'main_finetune.py': {768: 16.3, 1024: 23.2, 1280: 21.2},
    'main_linprobe.py': 15.0,
}
VARIANTS = 'ImageNet-C, -A, -R and -Sketch'  # the data of the robustness table
# Images of an evaluation: of ImageNet-C's 75 sets, of -A, -R and -Sketch
VALIDATION = {
    'ImageNet-1K': 50_000,
    VARIANTS: 75 * 50_000 + 7_500 + 30_000 + 50_889,
}


def block(tokens: int, width: int) -> int:
    """Multiply-adds of a transformer block whose MLP is four times as wide as the block."""
    linear = 12 * tokens * width**2
    attention = 2 * tokens**2 * width
    return linear + attention


def multiply_adds(
    model: str,
    input_size: sizes.Size = 224,
    mask_ratio: float = 0.75,
    classes: int = 1000,
    mask_tokens: bool = False,
    **decoder: int,
) -> int | None:
    """Multiply-adds of one image in a forward pass; None for models other than MAE's ViT.

    Norms, softmax and biases are not counted. input_size: pixels of a square's side, or height and
    width. mask_tokens: the encoder sees them. decoder: decoder_depth and decoder_width, where they
    are not the usual ones.
    """
    size = SIZES.get(model.removeprefix('mae_').removeprefix('vit_'))
    if size is None:
        return None
    size = replace(size, **decoder)
    rows, columns = (side // size.patch for side in sizes.pair(input_size))
    patches = rows * columns
    pixels = 3 * size.patch**2  # in a patch, of three channels
    embedding = patches * pixels * size.width

    if model.startswith('mae_'):
        # all patches are embedded, the encoder sees the visible ones and a class token
        visible = patches if mask_tokens else masking.num_visible(patches, mask_ratio)
        tokens = visible + 1
        head = _decoder(size, patches + 1, tokens)
    else:
        tokens = patches + 1
        head = classes * size.width
    encoder = size.depth * block(tokens, size.width)
    return embedding + encoder + head


def _decoder(size: Size, tokens: int, visible: int) -> int:
    """Multiply-adds of the decoder, with its embedding of the visible tokens."""
    embedding = visible * size.width * size.decoder_width
    blocks = size.decoder_depth * block(tokens, size.decoder_width)
    prediction = tokens * size.decoder_width * 3 * size.patch**2
    return embedding + blocks + prediction


def estimated_hours(recipe: Recipe) -> float | None:
    """Hours on one V100; None where they cannot be computed.

    A training step costs three forward passes: one forward, and two for the gradients. A linear
    probe computes the gradients of its head alone, so its step costs one.
    """
    macs = _multiply_adds_of(recipe)
    if recipe.program not in RATES or macs is None:
        return None

    if recipe.evaluates:
        images = VALIDATION[recipe.data]
        passes = 1
    else:
        images = IMAGES[recipe.data] * int(recipe.flag('--epochs'))
        passes = 1 if recipe.program == 'main_linprobe.py' else 3
        if '--freeze_blocks' in recipe.flags:  # no gradients of frozen blocks
            depth = SIZES[recipe.model.removeprefix('vit_')].depth
            passes -= 2 * float(recipe.flag('--freeze_blocks')) / depth

    rate = RATES[recipe.program]
    if isinstance(rate, dict):
        width = SIZES[recipe.model.removeprefix('vit_')].width
        rate = rate[width]
    operations = 2 * macs * passes * images
    return operations / (rate * 1e12) / 3600


def _multiply_adds_of(recipe: Recipe) -> int | None:
    """multiply_adds with what the flags of a recipe say."""
    decoder = {}
    for flag, name in (('--decoder_depth', 'decoder_depth'), ('--decoder_dim', 'decoder_width')):
        if flag in recipe.flags:
            decoder[name] = int(recipe.flag(flag))
    return multiply_adds(
        recipe.model,
        input_size=int(recipe.flag('--input_size', '224')),
        mask_ratio=float(recipe.flag('--mask_ratio', '0.75')),
        mask_tokens='--encoder_mask_tokens' in recipe.flags,
        **decoder,
    )


def hours(recipe: Recipe) -> str:
    """Device-hours as text: published ones, else an estimate (~), else an empty string."""
    if recipe.device_hours is not None:
        return f'{recipe.device_hours:,.0f} h, {recipe.hardware}'
    estimate = estimated_hours(recipe)
    if estimate is None:
        return ''
    if estimate < 1:
        at_least = max(estimate, 0.1)
        return f'~{at_least:.1f} h, V100'
    return f'~{estimate:,.0f} h, V100'
