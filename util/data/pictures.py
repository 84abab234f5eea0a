"""Find pictures, and read one of them, or one array of many channels.

Pictures are Pillow's, 0..255. Arrays are float32 [height, width, channels], whole numbers scaled to
0..1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from util.data import finder
from util.errors import InputError

# as torchvision's ImageFolder
PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
ARRAYS = ('.npy',)
MODES = {1: 'L', 3: 'RGB'}
FEW_BITS = {'L;2': 85, 'L;4': 17}  # factor from a level of 2 or 4 bits to one of 8 bits
TURNS = {  # EXIF's orientation: the operation that turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def suffixes(in_chans: int) -> tuple[str, ...]:
    """The suffixes of files with images of `in_chans` channels."""
    return PICTURES if in_chans in MODES else ARRAYS


def find(path: str | Path, in_chans: int = 3) -> list[Path]:
    """The pictures that a path means: a file, a folder, or else a glob. The result may be empty.

    Folders are searched at any depth; order and rules are those of util.data.finder.
    """
    path = Path(path)
    endings = suffixes(in_chans)
    if path.is_dir():
        return [Path(file) for file in finder.walk(path, endings)]
    if path.exists():
        return [path]
    return [Path(file) for file in finder.match(str(path), endings)]


def read_as_seen(path: str | Path, in_chans: int) -> Image.Image | np.ndarray:
    """As read(..., as_seen=True), for files that a user names; InputError if one is no picture."""
    with named(path, in_chans):
        return read(path, in_chans, as_seen=True)


@contextmanager
def named(name: str | Path, in_chans: int) -> Iterator[None]:
    """InputError, which names the picture, where it cannot be read."""
    try:
        yield
    except Exception as error:  # PIL raises a dozen kinds for broken files
        raise InputError(
            f'{name} cannot be read as a picture of {in_chans} channels ({error})'
        ) from None


def read(
    path: str | Path | BinaryIO, in_chans: int, as_seen: bool = False
) -> Image.Image | np.ndarray:
    """One image: a PIL picture in mode L or RGB for 1 or 3 channels, else an array.

    Arrays are float32 [height, width, in_chans]; integers are divided by the largest value of their
    type. as_seen: what a person sees, turned the way the camera was held, transparent parts white
    (the originals do neither in training and evaluation). Raises whatever PIL or NumPy raises for a
    file of another format, and ValueError for an array of another shape.
    """
    if in_chans not in MODES:
        return _read_array(path, in_chans)
    with Image.open(path) as picture:
        return converted(picture, MODES[in_chans], as_seen)


def _read_array(path: str | Path | BinaryIO, in_chans: int) -> np.ndarray:
    """An array file as float32 [height, width, in_chans]."""
    array = np.load(path, allow_pickle=False)
    shape = list(array.shape)
    if array.ndim != 3 or array.shape[2] != in_chans:
        raise ValueError(f'expected an array [height, width, {in_chans}], found {shape}')
    if not array.size or array.dtype.kind not in 'buif':
        raise ValueError(f'an array {shape} of {array.dtype} holds no pixels')

    with np.errstate(over='ignore'):  # an overflow is reported below
        pixels = (array / largest(array.dtype)).astype('float32')
    finite = np.isfinite(pixels)
    if not finite.all():
        count = np.count_nonzero(~finite)
        raise ValueError(f'{count} of {pixels.size} values are NaN or infinite in float32')
    return pixels


def converted(picture: Image.Image, mode: str, as_seen: bool = False) -> Image.Image:
    """A picture of any of Pillow's modes in `mode`, L or RGB; `as_seen` as in `read`.

    ValueError for modes that do not say what is white.
    """
    kind = picture.format
    rawmode = picture.tile[0].args if getattr(picture, 'tile', None) else None
    picture.load()
    orientation = orientation_of(picture) if as_seen else None

    # In a PNG or GIF one level or colour can mean transparent. It is taken out of the picture's
    # info, because Pillow's conversions would change it to another one.
    may_have_key = picture.mode in ('1', 'L', 'RGB') or picture.mode.startswith('I')
    key = None
    if may_have_key or not as_seen:
        key = picture.info.pop('transparency', None)
        key = _as_stored(key, rawmode)

    is_16_bit = picture.mode.startswith('I;16') or (picture.mode == 'I' and kind == 'PPM')
    if is_16_bit:
        picture = _eight_bits(np.asarray(picture), key if as_seen else None)
    elif picture.mode in ('I', 'F'):
        raise ValueError(
            'a picture of 32 bits a pixel does not say what is white; save it with 8 or 16'
        )
    elif as_seen and key is not None:
        picture = _key_to_white(picture, key)
    elif as_seen and picture.has_transparency_data:
        picture = _on_white(picture.convert('RGBA'))

    if orientation in TURNS:
        picture = picture.transpose(TURNS[orientation])
    if picture.mode == 'LAB':  # Pillow converts it to RGB only
        picture = picture.convert('RGB')
    return picture.convert(mode)


def orientation_of(picture: Image.Image) -> int | None:
    """EXIF's code of how the camera was held; None if the file has none or its EXIF is damaged."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # PIL raises a dozen kinds for broken EXIF; the picture itself is whole
        return None


def _as_stored(key: int | tuple | None, rawmode: str | None) -> int | tuple | None:
    """The transparent level or colour on the scale of Pillow's pixels."""
    if key is None:
        return None
    if rawmode in FEW_BITS:
        return key * FEW_BITS[rawmode]
    if rawmode == 'RGB;16B':  # Pillow keeps the upper 8 of 16 bits
        return tuple(level >> 8 for level in key)
    return key


def _eight_bits(levels: np.ndarray, key: int | None) -> Image.Image:
    """Levels of 16 bits rounded to 8, with the level `key` white.

    levels: [height, width], 0..65535. PIL's own conversion would clip nearly all of them to white.
    """
    quotient, remainder = np.divmod(levels, 257)  # 65535 = 255 * 257
    grey = (quotient + (remainder > 128)).astype('uint8')
    if key is not None:
        grey[levels == key] = 255
    return Image.fromarray(grey)


def _key_to_white(picture: Image.Image, key: int | tuple[int, int, int]) -> Image.Image:
    """A picture whose pixels of the level or colour `key` are white."""
    if picture.mode == '1':
        picture = picture.convert('L')
    pixels = np.array(picture)  # [height, width] or [height, width, 3]
    transparent = pixels == key
    if pixels.ndim == 3:
        transparent = transparent.all(axis=2)  # [height, width]
    pixels[transparent] = 255
    return Image.fromarray(pixels)


def _on_white(picture: Image.Image) -> Image.Image:
    """An RGBA picture laid over white."""
    white = Image.new('RGBA', picture.size, 'white')
    return Image.alpha_composite(white, picture)


def largest(dtype: np.dtype) -> float:
    """The value of full brightness in an array of this type."""
    if np.issubdtype(dtype, np.integer):
        return np.iinfo(dtype).max
    return 1.0


def blank(in_chans: int) -> Image.Image | np.ndarray:
    """One black pixel of the kind that `read` returns."""
    if in_chans in MODES:
        return Image.new(MODES[in_chans], (1, 1))
    return np.zeros([1, 1, in_chans], 'float32')
