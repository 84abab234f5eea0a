"""What a run costs: multiply-adds by formula, and hours by the rates that published runs reached."""

from models_sizes import SIZES
from recipes.recipe import IMAGES, Recipe
from util import masking

# 10^12 operations a second and V100, from the times that facebookresearch/mae published: ViT-L for 800 epochs; fine-tuning
# by the encoder's width; ViT-B's linear probe. Loading and evaluation are in them
RATES = {
    'main_pretrain.py': 13.2,
    'main_finetune.py': {768: 16.3, 1024: 23.2, 1280: 21.2},
    'main_linprobe.py': 15.0,
}
VALIDATION = 50_000  # images of ImageNet-1K


def block(tokens: int, width: int) -> int:
    """Multiply-adds of a transformer block with an MLP of four times the width."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def multiply_adds(
    model: str, side: int = 224, mask_ratio: float = 0.75, classes: int = 1000
) -> int | None:
    """Of one image in one forward pass, without norms, softmax and biases; None for models other than MAE's ViT. A masked
    autoencoder embeds all patches, encodes those that are kept and decodes all; all recipes of MAE keep a quarter."""
    size = SIZES.get(model.removeprefix('mae_').removeprefix('vit_'))
    if size is None:
        return None
    patches, pixels = (side // size.patch) ** 2, 3 * size.patch**2
    embedding = patches * pixels * size.width
    if not model.startswith('mae_'):
        return embedding + size.depth * block(patches + 1, size.width) + classes * size.width
    kept = masking.num_visible(patches, mask_ratio) + 1
    decoder = (
        size.decoder_depth * block(patches + 1, size.decoder_width)
        + (patches + 1) * size.decoder_width * pixels
    )
    return (
        embedding
        + size.depth * block(kept, size.width)
        + kept * size.width * size.decoder_width
        + decoder
    )


def estimated_hours(recipe: Recipe) -> float | None:
    """On one V100, where it can be computed: forward and backward are three forward passes; a probe trains a head."""
    macs = multiply_adds(recipe.model, int(recipe.flag('--input_size', '224')))
    if recipe.program not in RATES or macs is None:
        return None
    if recipe.evaluates:
        images, passes = VALIDATION, 1
    else:
        images, passes = (
            IMAGES[recipe.data] * int(recipe.flag('--epochs')),
            1 if recipe.program == 'main_linprobe.py' else 3,
        )
    rate = RATES[recipe.program]
    if isinstance(rate, dict):
        rate = rate[SIZES[recipe.model.removeprefix('vit_')].width]
    return 2 * macs * passes * images / (rate * 1e12) / 3600


def hours(recipe: Recipe) -> str:
    """Published device-hours, else an estimate, else nothing."""
    if recipe.device_hours is not None:
        return f'{recipe.device_hours:,.0f} h, {recipe.hardware}'
    estimate = estimated_hours(recipe)
    return (
        ''
        if estimate is None
        else f'~{estimate:,.0f} h, V100'
        if estimate >= 1
        else f'~{max(estimate, 0.1):.1f} h, V100'
    )
