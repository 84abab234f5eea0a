"""UM-MAE and its SimMIM baseline, restated in NumPy, float64; nothing is shared with the models.

Every function takes a dict `w` of weights under UM-MAE's names, Linear weights as [in, out].
Pictures are [N, C, H, W], feature grids [N, rows, columns, width]. A unit of `unit` patches a side
is removed or kept as a whole. Masks are [N, rows, columns] over units, True where removed (or
replaced by the token of secondary masking).
"""

import numpy as np
from scipy.special import erf


def linear(x, w, name):
    return x @ w[f'{name}.weight'] + w[f'{name}.bias']


def norm(x, w, name, epsilon):
    x = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x / deviation * w[f'{name}.weight'] + w[f'{name}.bias']


def softmax(scores):
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def mlp(x, w, name):
    x = linear(x, w, f'{name}.fc1')
    gelu = x * (1 + erf(x / np.sqrt(2))) / 2
    return linear(gelu, w, f'{name}.fc2')


def strided(x, w, name):
    """A convolution whose stride is its kernel's side, over a grid [N, H, W, C]."""
    kernel = w[f'{name}.weight']
    side = kernel.shape[-1]
    n, h, wd, c = x.shape
    cut = x.reshape(n, h // side, side, wd // side, side, c)
    return np.einsum('nhywxc,ocyx->nhwo', cut, kernel) + w[f'{name}.bias']


def split_heads(x, heads):
    """[..., L, D] -> [..., heads, L, D / heads]."""
    return np.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def attend(q, k, v, heads, bias=0.0):
    """Tokens [..., L, D] attend; `bias` is added to the scores [..., heads, L, L]."""
    q, k, v = (split_heads(x, heads) for x in (q, k, v))  # [..., heads, L, D / heads]
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + bias
    out = np.moveaxis(softmax(scores) @ v, -3, -2)  # [..., L, heads, D / heads]
    return out.reshape(*out.shape[:-2], -1)


# ---- masks and compaction


def spread(units, side):
    """A mask over units, repeated `side` times a side for patches or pixels: [N, H, W, 1]."""
    return units.repeat(side, 1).repeat(side, 2)[..., None]


def compact(x, removed, side):
    """Set removed units to 0, then add the four units of each 2 x 2 cell, place by place."""
    n, h, w, c = x.shape
    x = x * ~spread(removed, side)
    cells = x.reshape(n, h // (2 * side), 2, side, w // (2 * side), 2, side, c)
    return cells.sum((2, 5)).reshape(n, h // 2, w // 2, c)


def coordinates(n, rows, columns):
    """The row and the column of each place: [n, rows, columns, 2]."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing='ij'), -1)
    return np.tile(grid[None].astype('float64'), [n, 1, 1, 1])


def embed(w, images, removed, replaced, unit, norm_epsilon):
    """The patch grid after secondary masking, not compacted yet.

    `norm_epsilon` None: no LayerNorm, as in PVT.
    """
    x = strided(images.transpose(0, 2, 3, 1), w, 'patch_embed.proj')
    if norm_epsilon:
        x = norm(x, w, 'patch_embed.norm', norm_epsilon)
    if replaced is not None and replaced.any():
        assert not (replaced & removed).any()
        token = w['vis_mask_token'].reshape(-1)
        if norm_epsilon:
            token = norm(token, w, 'patch_embed.norm', norm_epsilon)
        x = np.where(spread(replaced, unit), token, x)
    return x


# ---- Swin


def pair_bias(w, name, query, key):
    """Bias [..., heads, query, key] of coordinates [..., query, 2] and [..., key, 2].

    The MLP runs once for each pair.
    """
    apart = key[..., None, :, :] - query[..., :, None, :]
    apart = np.sign(apart) * np.log(1 + np.abs(apart))
    first, last = (w[f'{name}.{part}.weight'][:, :, 0, 0] for part in (0, 2))
    hidden = np.maximum(apart @ first.T + w[f'{name}.0.bias'], 0)
    return np.moveaxis(hidden @ last.T + w[f'{name}.2.bias'], -1, -3)


def windows(x, side):
    """[N, H, W, C] -> [N, windows, side * side, C]."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // side, side, w // side, side, c).swapaxes(2, 3)
    return x.reshape(n, -1, side * side, c)


def joined(x, h, w):
    """[N, windows, side * side, C] -> [N, h, w, C]."""
    n, _, area, c = x.shape
    side = round(area**0.5)
    x = x.reshape(n, h // side, w // side, side, side, c).swapaxes(2, 3)
    return x.reshape(n, h, w, c)


def shifted_regions(h, w, side, shift):
    """Numbers [1, H, W, 1] that differ for places that only a cyclic shift puts into one window."""
    rows, columns = (np.digitize(np.arange(size), [size - side, size - shift]) for size in (h, w))
    numbers = 3 * rows[:, None] + columns  # [H, W]
    return numbers[None, :, :, None].astype('float64')


def swin_block(x, places, w, name, heads, window, shift, hidden=None):
    """A block of Swin. `places` are the coordinates of x.

    `hidden` [N, H, W, 1] marks keys that no query may attend to, for the full grid.
    """
    _, height, width, _ = x.shape
    if min(height, width) <= window:
        window, shift = min(height, width), 0

    def cut(grid):
        """The windows [N, windows, side * side, C] of a grid after the cyclic shift."""
        return windows(np.roll(grid, (-shift, -shift), (1, 2)), window)

    shortcut = x
    x, places = cut(norm(x, w, f'{name}.norm1', 1e-5)), cut(places)
    bias = pair_bias(w, f'{name}.attn.posmlp', places, places)
    if shift:
        region = windows(shifted_regions(height, width, window, shift), window)[..., 0]
        strangers = region[..., :, None] != region[..., None, :]
        bias = bias + np.where(strangers, -100, 0)[:, :, None]
    if hidden is not None:
        bias = bias - 1e9 * cut(hidden)[..., 0][:, :, None, None, :]
    q, k, v = np.split(linear(x, w, f'{name}.attn.qkv'), 3, -1)
    x = linear(attend(q, k, v, heads, bias), w, f'{name}.attn.proj')
    x = shortcut + np.roll(joined(x, height, width), (shift, shift), (1, 2))
    return x + mlp(norm(x, w, f'{name}.norm2', 1e-5), w, f'{name}.mlp')


def swin_blocks(x, places, w, depths, heads, window, hidden=None):
    """The features behind each block, one after the other."""
    number = 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            name = f'blocks.{number}'
            if stage and not i:
                x = norm(x, w, f'{name}.downsample.norm', 1e-6)
                x = strided(x, w, f'{name}.downsample.proj')
                places = places[:, ::2, ::2] / 2
                hidden = hidden if hidden is None else hidden[:, ::2, ::2]
            shift = i % 2 * (window // 2)
            x = swin_block(x, places, w, name, heads[stage], window, shift, hidden)
            yield x
            number += 1


def swin_latent(w, images, removed, depths, heads, window, replaced=None, unit=4):
    """Latents of the compacted grid by Swin."""
    x = embed(w, images, removed, replaced, unit, 1e-6)
    places = compact(coordinates(*x.shape[:3]), removed, unit)
    x = compact(x, removed, unit)
    *_, x = swin_blocks(x, places, w, depths, heads, window)
    return norm(x, w, 'norm', 1e-6)


# ---- PVT


def pvt_block(x, w, name, heads, reduction):
    """A block of PVT; keys and values come from squares of `reduction` places a side."""
    n, height, width, d = x.shape
    y = norm(x, w, f'{name}.norm1', 1e-5)
    squares = y.reshape(n, height // reduction, reduction, width // reduction, reduction, d)
    pooled = strided(squares.mean((2, 4)), w, f'{name}.attn.sr')
    pooled = norm(pooled, w, f'{name}.attn.norm', 1e-5).reshape(n, -1, d)
    q = linear(y.reshape(n, -1, d), w, f'{name}.attn.q')
    k, v = np.split(linear(pooled, w, f'{name}.attn.kv'), 2, -1)
    y = attend(q, k, v, heads)
    x = x + linear(y, w, f'{name}.attn.proj').reshape(x.shape)
    return x + mlp(norm(x, w, f'{name}.norm2', 1e-5), w, f'{name}.mlp')


def pvt_blocks(x, w, depths, heads, reductions):
    """The features behind each block, one after the other."""
    number = 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            name = f'blocks.{number}'
            if stage and not i:
                x = strided(x, w, f'{name}.downsample.proj')
            x = pvt_block(x, w, name, heads[stage], reductions[stage])
            yield x
            number += 1


def pvt_latent(w, images, removed, depths, heads, reductions, replaced=None, unit=4):
    """Latents of the compacted grid by PVT."""
    x = embed(w, images, removed, replaced, unit, None)
    positions = np.tile(w['pos_embed'].reshape(1, *x.shape[1:]), [len(x), 1, 1, 1])
    x = compact(x, removed, unit) + compact(positions, removed, unit)
    *_, x = pvt_blocks(x, w, depths, heads, reductions)
    return norm(x, w, 'norm', 1e-6)


# ---- decoder and losses


def pixel_shuffle(x):
    """[N, H, W, 4 D] -> [N, 2 H, 2 W, D]; as torch's, channel d * 4 + row * 2 + column."""
    n, h, w, d = x.shape
    x = x.reshape(n, h, w, d // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)  # [N, H, 2, W, 2, D]
    return x.reshape(n, 2 * h, 2 * w, d // 4)


def cell_order(removed):
    """Numbers of one sample's kept units, in raster order of the 2 x 2 cells."""
    h, w = removed.shape
    numbers = []
    for cell_row, cell_column, y, x in np.ndindex(h // 2, w // 2, 2, 2):
        row, column = 2 * cell_row + y, 2 * cell_column + x
        if not removed[row, column]:
            numbers.append(row * w + column)
    return np.array(numbers)


def vit_block(x, w, name, heads):
    qkv = linear(norm(x, w, f'{name}.norm1', 1e-6), w, f'{name}.attn.qkv')
    q, k, v = np.split(qkv, 3, -1)
    x = x + linear(attend(q, k, v, heads), w, f'{name}.attn.proj')
    return x + mlp(norm(x, w, f'{name}.norm2', 1e-6), w, f'{name}.mlp')


def decode(w, latent, removed, heads, fixed=False):
    """Predictions [N, units, values] in raster order of the units.

    Inside the decoder the visible tokens come first, in the order of the cells, then the removed
    ones. The positions of the visible tokens are in the raster order of the units, as in the
    original, unless `fixed`.
    """
    x = pixel_shuffle(linear(latent, w, 'decoder_embed'))
    x = x.reshape(len(x), -1, x.shape[-1])  # [N, kept, D]
    positions = w['decoder_pos_embed'][0]
    sequences, orders = [], []
    for tokens, mask in zip(x, removed):
        kept, hidden = cell_order(mask), np.flatnonzero(mask)
        mask_tokens = np.tile(w['mask_token'].reshape(1, -1), [len(hidden), 1])
        places = np.concatenate([kept if fixed else np.sort(kept), hidden])
        sequences.append(np.concatenate([tokens, mask_tokens]) + positions[places])
        orders.append(np.argsort(np.concatenate([kept, hidden])))
    predicted = decoder(w, np.stack(sequences), heads)
    return np.stack([rows[order] for rows, order in zip(predicted, orders)])


def decoder(w, x, heads):
    """The decoder's predictions for a sequence of tokens with positions."""
    block = 0
    while f'decoder_blocks.{block}.norm1.weight' in w:
        x, block = vit_block(x, w, f'decoder_blocks.{block}', heads), block + 1
    return linear(norm(x, w, 'decoder_norm', 1e-6), w, 'decoder_pred')


def patches(images, side):
    """[N, C, H, W] -> [N, units, side * side * C], row, column, channel."""
    n, c, h, w = images.shape
    cut = images.reshape(n, c, h // side, side, w // side, side).transpose(0, 2, 4, 3, 5, 1)
    return cut.reshape(n, -1, side * side * c)


def loss(images, predicted, removed, side, normalised, error=np.square):
    """The mean error over all values of the removed units."""
    target = patches(images, side)
    if normalised:
        deviation = np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
        target = (target - target.mean(-1, keepdims=True)) / deviation
    return error(predicted - target)[removed.reshape(len(removed), -1)].mean()


# ---- SimMIM: the whole grid, with mask tokens in place of removed units


def simmim_input(w, images, removed, unit, norm_epsilon):
    """The patch grid with mask tokens in place of removed units."""
    x = embed(w, images, None, None, unit, norm_epsilon)
    return np.where(spread(removed, unit), w['mask_token'].reshape(-1), x)


def simmim_prediction(w, x):
    """All units' predictions [N, units, values] from the last block's features."""
    x = pixel_shuffle(linear(norm(x, w, 'norm', 1e-6), w, 'decoder_pred'))
    return x.reshape(len(x), -1, x.shape[-1])


def simmim_swin(w, images, removed, depths, heads, window, unit=4):
    """Predictions of SimMIM with Swin."""
    x = simmim_input(w, images, removed, unit, 1e-6)
    *_, x = swin_blocks(x, coordinates(*x.shape[:3]), w, depths, heads, window)
    return simmim_prediction(w, x)


def simmim_pvt(w, images, removed, depths, heads, reductions, unit=4):
    """Predictions of SimMIM with PVT."""
    x = simmim_input(w, images, removed, unit, None)
    x = x + w['pos_embed'].reshape(1, *x.shape[1:])
    *_, x = pvt_blocks(x, w, depths, heads, reductions)
    return simmim_prediction(w, x)


# ---- ViT: the ordinary MAE's encoder over the kept patches, with secondary masking


def vit_latent(w, images, kept, replaced, heads):
    """Latents [N, 1 + K, D] of the patches `kept` [N, K].

    `replaced` [N, K] is True where the token of secondary masking replaces the patch.
    """
    x = strided(images.transpose(0, 2, 3, 1), w, 'patch_embed.proj')
    x = x.reshape(len(x), -1, x.shape[-1])  # [N, patches, D]
    x = np.stack([rows[order] for rows, order in zip(x, kept)])  # [N, K, D]
    if replaced is not None and replaced.any():
        x = np.where(replaced[..., None], w['vis_mask_token'].reshape(-1), x)
    first, rest = w['pos_embed'][0, :1], w['pos_embed'][0, 1:]
    cls = np.tile(w['cls_token'].reshape(1, 1, -1) + first, [len(x), 1, 1])
    x = np.concatenate([cls, x + rest[kept]], 1)
    block = 0
    while f'blocks.{block}.norm1.weight' in w:
        x, block = vit_block(x, w, f'blocks.{block}', heads), block + 1
    return norm(x, w, 'norm', 1e-6)


def vit_decode(w, latent, removed, heads):
    """UM-MAE's decoder: visible tokens first, in raster order; predictions in raster order."""
    x = linear(latent, w, 'decoder_embed')
    positions = w['decoder_pos_embed'][0]
    sequences, orders = [], []
    for tokens, mask in zip(x, removed):
        shuffled = np.concatenate([np.flatnonzero(~mask), np.flatnonzero(mask)])
        hidden = np.tile(w['mask_token'].reshape(1, -1), [mask.sum(), 1])
        places = np.concatenate([[0], 1 + shuffled])  # the class token first
        sequences.append(np.concatenate([tokens, hidden]) + positions[places])
        orders.append(np.argsort(shuffled))
    predicted = decoder(w, np.stack(sequences), heads)
    return np.stack([rows[1:][order] for rows, order in zip(predicted, orders)])


# ---- a model to compare with


def perturb(model, seed=0):
    """Add noise to every parameter, so that no zero hides a mistake; the weights as float64."""
    rng, weights = np.random.default_rng(seed), {}
    for name, parameter in model.named_parameters():
        value = parameter.numpy() + rng.normal(0, 0.1, parameter.shape)
        parameter.set_value(value.astype('float32'))
        weights[name] = parameter.numpy().astype('float64')
    return weights
