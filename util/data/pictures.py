"""Find pictures, and read one of them, or one array of many channels."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from util.data import finder
from util.errors import InputError

# as torchvision's ImageFolder
PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
ARRAYS = ('.npy',)
MODES = {1: 'L', 3: 'RGB'}
FEW_BITS = {'L;2': 85, 'L;4': 17}  # how many levels of 8 bits are one of 2 or 4
TURNS = {  # EXIF's orientation: what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def suffixes(in_chans: int) -> tuple[str, ...]:
    """Endings of the files that hold images of `in_chans` channels."""
    return PICTURES if in_chans in MODES else ARRAYS


def find(path: str | Path, in_chans: int = 3) -> list[Path]:
    """The file of that name, else the pictures of that folder and of the folders in it, else what matches it as a glob.

    In the order and by the rules of util.data.finder, as in training. May be empty.
    """
    path, endings = Path(path), suffixes(in_chans)
    if path.is_dir():
        return list(map(Path, finder.walk(path, endings)))
    if path.exists():
        return [path]
    return list(map(Path, finder.match(str(path), endings)))


def read_as_seen(path: str | Path, in_chans: int) -> Image.Image | np.ndarray:
    """As read(..., as_seen=True), for what a person names; InputError for a file that is no picture."""
    try:
        return read(path, in_chans, as_seen=True)
    except Exception as error:  # PIL raises a dozen kinds for broken files
        raise InputError(
            f'{path} cannot be read as a picture of {in_chans} channels ({error})'
        ) from None


def read(path: str | Path, in_chans: int, as_seen: bool = False) -> Image.Image | np.ndarray:
    """One image: for 1 and 3 channels a PIL picture in mode L or RGB, otherwise float32
    [height, width, in_chans], whole numbers scaled so that their type's largest value is 1.

    `as_seen` gives what a person sees: turned the way the camera was held, transparent parts on
    white; upstream does neither in training and evaluation. Raises whatever PIL or NumPy raises for
    a file that is none, and ValueError for an array of another shape.
    """
    if in_chans not in MODES:
        return _read_array(path, in_chans)
    with Image.open(path) as picture:
        return converted(picture, MODES[in_chans], as_seen)


def _read_array(path: str | Path, in_chans: int) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if array.ndim != 3 or array.shape[2] != in_chans:
        raise ValueError(
            f'expected an array [height, width, {in_chans}], found {list(array.shape)}'
        )
    if not array.size or array.dtype.kind not in 'buif':
        raise ValueError(f'an array {list(array.shape)} of {array.dtype} holds no pixels')
    with np.errstate(over='ignore'):
        pixels = (array / largest(array.dtype)).astype('float32')
    if not np.isfinite(pixels).all():
        count = np.count_nonzero(~np.isfinite(pixels))
        raise ValueError(f'{count} of {pixels.size} values are NaN or infinite in float32')
    return pixels


def converted(picture: Image.Image, mode: str, as_seen: bool = False) -> Image.Image:
    """A picture of any of Pillow's modes in `mode`, L or RGB; `as_seen` as in `read`.

    ValueError for modes that do not say what is white.
    """
    kind = picture.format
    rawmode = picture.tile[0].args if getattr(picture, 'tile', None) else None
    picture.load()
    orientation = _orientation(picture) if as_seen else None
    # one level or colour of a PNG or GIF is transparent; Pillow's conversions take it for another
    keyed = picture.mode in ('1', 'L', 'RGB') or picture.mode.startswith('I')
    key = picture.info.pop('transparency', None) if keyed or not as_seen else None
    key = _as_stored(key, rawmode)

    if picture.mode.startswith('I;16') or (picture.mode == 'I' and kind == 'PPM'):
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
    if picture.mode == 'LAB':  # Pillow turns it into nothing but colours
        picture = picture.convert('RGB')
    return picture.convert(mode)


def _orientation(picture: Image.Image) -> int | None:
    """How the camera was held, by EXIF; None where the file does not say it or its EXIF is damaged."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # PIL raises a dozen kinds for broken EXIF; the picture itself is whole
        return None


def _as_stored(key: int | tuple | None, rawmode: str | None) -> int | tuple | None:
    """The transparent level or colour in the range that Pillow's pixels have."""
    if key is None:
        return None
    if rawmode in FEW_BITS:
        return key * FEW_BITS[rawmode]
    if rawmode == 'RGB;16B':  # Pillow keeps the upper 8 of 16 bits
        return tuple(level >> 8 for level in key)
    return key


def _eight_bits(levels: np.ndarray, key: int | None) -> Image.Image:
    """Levels of 16 bits rounded to 8, the level `key` white; PIL would clip nearly all to white."""
    quotient, remainder = np.divmod(levels, 257)
    grey = (quotient + (remainder > 128)).astype('uint8')
    if key is not None:
        grey[levels == key] = 255
    return Image.fromarray(grey)


def _key_to_white(picture: Image.Image, key: int | tuple[int, int, int]) -> Image.Image:
    """A picture whose pixels of the level or colour `key` are white."""
    pixels = np.array(picture.convert('L') if picture.mode == '1' else picture)
    hidden = (pixels == key).all(axis=2) if pixels.ndim == 3 else pixels == key
    pixels[hidden] = 255
    return Image.fromarray(pixels)


def _on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture)


def largest(dtype: np.dtype) -> float:
    """What counts as full brightness in an array of this type."""
    return np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1.0


def blank(in_chans: int) -> Image.Image | np.ndarray:
    """One black pixel of the kind that `read` returns."""
    return (
        Image.new(MODES[in_chans], (1, 1))
        if in_chans in MODES
        else np.zeros([1, 1, in_chans], 'float32')
    )
