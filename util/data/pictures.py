"""Find pictures, and read one of them, or one array of many channels."""

from glob import glob
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from util.errors import InputError

# as torchvision's ImageFolder
PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
ARRAYS = ('.npy',)
MODES = {1: 'L', 3: 'RGB'}


def suffixes(in_chans: int) -> tuple[str, ...]:
    """Endings of the files that hold images of `in_chans` channels."""
    return PICTURES if in_chans in MODES else ARRAYS


def find(path: str | Path, in_chans: int = 3) -> list[Path]:
    """The file of that name, else the pictures of that folder and of the folders in it, else what matches it as a glob.

    In order of their names; of a folder, what begins with a dot is left out, as in training. May be empty.
    """
    path = Path(path)
    if not path.is_dir():
        return [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
    files = [file for file in path.rglob('*') if file.suffix.lower() in suffixes(in_chans)]
    return sorted(
        file
        for file in files
        if not any(part.startswith('.') for part in file.relative_to(path).parts)
    )


def read_as_seen(path: str | Path, in_chans: int) -> Image.Image | np.ndarray:
    """As read(..., as_seen=True), for what a person names; InputError for a file that is no picture."""
    try:
        return read(path, in_chans, as_seen=True)
    except Exception as error:  # PIL raises a dozen kinds for broken files
        raise InputError(
            f'{path} cannot be read as a picture of {in_chans} channels ({error})'
        ) from None


def read(path: str | Path, in_chans: int, as_seen: bool = False) -> Image.Image | np.ndarray:
    """One image: for 1 and 3 channels a PIL picture in mode L or RGB, otherwise float32 [height, width, in_chans],
    whole numbers scaled so that their type's largest value is 1.

    `as_seen` gives what a person sees: turned the way the camera was held, transparent parts on white; upstream does
    neither in training and evaluation. Raises whatever PIL or NumPy raises for a file that is none, and ValueError for
    an array of another shape.
    """
    if in_chans not in MODES:
        array = np.load(path, allow_pickle=False)
        if array.ndim != 3 or array.shape[2] != in_chans:
            raise ValueError(
                f'expected an array [height, width, {in_chans}], found {list(array.shape)}'
            )
        return (array / largest(array.dtype)).astype('float32')
    with Image.open(path) as picture:
        kind, picture = picture.format, _as_seen(picture) if as_seen else picture
        # PIL gives those in 32 bits
        sixteen = picture.mode.startswith('I;16') or (picture.mode == 'I' and kind == 'PPM')
        if sixteen:  # PIL's own conversion would clip nearly all to white
            picture = Image.fromarray(
                (np.asarray(picture, dtype='float32') / 257).round().astype('uint8')
            )
        elif picture.mode in ('I', 'F'):
            raise ValueError(
                'a picture of 32 bits a pixel does not say what is white; save it with 8 or 16'
            )
        return picture.convert(MODES[in_chans])


def _as_seen(picture: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert('RGBA')
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
