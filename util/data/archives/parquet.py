"""Parquet as on Hugging Face: a column of images, {bytes, path} each, and one of labels.

Class names are those of the schema. Image number i is row number i. A row group is read as a whole,
and a process keeps some of them, so an order that stays within a few row groups is fast.
"""

import io
import json
from collections import OrderedDict
from typing import BinaryIO

from util.data.archives.listing import UNLABELLED, Listing
from util.errors import InputError

IMAGES = ('image', 'img', 'jpg', 'png', 'webp')
LABELS = ('label', 'labels', 'fine_label', 'cls')

OPEN = 32  # files that a process keeps open

_open_files: OrderedDict[str, object] = OrderedDict()  # path -> ParquetFile, the latest opened last
_groups: OrderedDict[tuple[str, int], object] = OrderedDict()  # (path, group) -> images, as bytes


def pyarrow():
    """The module pyarrow.parquet; InputError where it is not installed."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            'parquet needs the package in requirements/features.txt: '
            'bash requirements/install.sh .venv requirements.txt requirements/features.txt'
        ) from None
    return parquet


def pieces(path: str) -> list[None]:
    """A file is listed in one piece."""
    return [None]


def listing(path: str, piece: None, suffixes: tuple[str, ...]) -> Listing:
    """The images of a file, each named by its path, or else by its row."""
    file = _file(path)
    image, label, classes = _columns(path, file.schema_arrow)
    found = Listing(classes=classes)
    found.groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    wanted = [f'{image}.path'] if _is_struct(file, image) else []
    wanted += [label] if label else []
    count = file.metadata.num_rows
    names, labels = [None] * count, [UNLABELLED] * count
    if wanted:
        table = file.read(columns=wanted, use_threads=False)
        if image in table.column_names:
            rows = table.column(image).to_pylist()
            names = [row and row.get('path') for row in rows]
        if label:
            numbers = table.column(label).to_pylist()
            labels = [UNLABELLED if number is None else int(number) for number in numbers]
    for row, (name, number) in enumerate(zip(names, labels)):
        found.add((name or f'row {row}').replace('\0', ''), row, 0, number)
    return found


def _columns(path: str, schema) -> tuple[str, str | None, list[str] | None]:
    """The columns of images and labels, and the names of the classes where the schema has them."""
    import pyarrow

    features = _features(schema)
    image = label = classes = None
    for name, feature in features.items():
        if name not in schema.names or not isinstance(feature, dict):
            continue
        kind = feature.get('_type')
        if kind == 'Image' and image is None:
            image = name
        elif kind == 'ClassLabel' and label is None:
            label, classes = name, feature.get('names')
    image = image or _first(schema, IMAGES)
    label = label or _first(schema, LABELS)
    if label and not pyarrow.types.is_integer(schema.field(label).type):
        label = classes = None
    if image is None:
        columns = ', '.join(schema.names)
        raise InputError(
            f'{path}: no column of images ({", ".join(IMAGES)}); the columns are: {columns}'
        )
    kind = schema.field(image).type
    if pyarrow.types.is_struct(kind):
        kind = kind.field('bytes').type if kind.get_field_index('bytes') >= 0 else kind
    if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise InputError(f'{path}: the column {image} holds {kind}; expected bytes of pictures')
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return image, label, classes if is_list else None


def _features(schema) -> dict:
    """The columns as Hugging Face describes them in the schema; {} if it does not."""
    try:
        about = json.loads((schema.metadata or {})[b'huggingface'])
        features = about['info']['features']
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _first(schema, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _is_struct(file, column: str) -> bool:
    kind = file.schema_arrow.field(column).type
    return kind.num_fields > 0 and kind.get_field_index('path') >= 0


def _file(path: str):
    """The open file of a path; InputError if it is no parquet."""
    if path not in _open_files:
        parquet = pyarrow()
        try:
            _open_files[path] = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow raises several kinds
            message = str(error).splitlines()[0]
            raise InputError(f'{path} cannot be read as parquet ({message})') from None
        if len(_open_files) > OPEN:
            _, oldest = _open_files.popitem(last=False)
            oldest.close()
    return _open_files[path]


def read(path: str, group: int, row: int, keep: int) -> BinaryIO:
    """The bytes of an image: row `row` of a row group. keep: row groups to keep in memory."""
    key = (path, group)
    images = _groups.pop(key, None)
    if images is None:
        images = _read_group(path, group)
    _groups[key] = images
    while len(_groups) > keep:
        _groups.popitem(last=False)
    data = images[row]
    if not data.is_valid:
        raise ValueError('the row holds no bytes')
    return io.BytesIO(data.as_buffer())


def _read_group(path: str, group: int):
    """The images of a row group, a pyarrow array of bytes."""
    file = _file(path)
    image = _columns(path, file.schema_arrow)[0]
    is_struct = _is_struct(file, image)
    wanted = f'{image}.bytes' if is_struct else image
    table = file.read_row_group(group, columns=[wanted], use_threads=False)
    column = table.column(image).combine_chunks()
    if is_struct:
        return column.field('bytes')
    return column
