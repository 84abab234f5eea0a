"""The same pictures as class folders, ImageNet's archives, webdataset's shards and parquet.

Archives are written by Python's tarfile, the package webdataset and pyarrow, not by our own code.
"""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import webdataset
from PIL import Image
from pyarrow import parquet
from scipy.io import savemat

WNIDS = ('n01440764', 'n01443537', 'n01484850')
# numbers of the devkit: not in the order of the sorted names; 4 and 5 are inner nodes of the tree
IDS = {'n01484850': 1, 'n01440764': 2, 'n01443537': 3}


def folders(root, train=30, val=10):
    """Class folders with random pictures; val's names are those of ImageNet's validation set."""
    rng = np.random.default_rng(0)
    for number in range(train + val):
        wnid = WNIDS[number * 7 % 3]
        if number < train:
            file = root / 'train' / wnid / f'{wnid}_{number}.png'
        else:
            file = root / 'val' / wnid / f'ILSVRC2012_val_{number - train + 1:08}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, [32, 32], 'uint8')).save(file)
    return root


def add(archive, name, data):
    """Append a file to a tarfile."""
    about = tarfile.TarInfo(name)
    about.size = len(data)
    archive.addfile(about, io.BytesIO(data))


def imagenet(root, out):
    """ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the devkit of class folders."""
    out.mkdir()
    with tarfile.open(out / 'ILSVRC2012_img_train.tar', 'w') as archive:
        for folder in reversed(sorted((root / 'train').iterdir())):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode='w', format=tarfile.GNU_FORMAT) as one:
                for file in folder.iterdir():
                    add(one, file.name, file.read_bytes())
            add(archive, f'{folder.name}.tar', inner.getvalue())
    files = sorted((root / 'val').rglob('*.png'), key=lambda file: file.name)
    with tarfile.open(out / 'ILSVRC2012_img_val.tar', 'w') as archive:
        for file in reversed(files):
            add(archive, file.name, file.read_bytes())
    devkit(out, [IDS[file.parent.name] for file in files])
    return out


def devkit(out, numbers):
    """The devkit for validation images with these numbers."""
    columns = 'ILSVRC2012_ID WNID words gloss num_children children wordnet_height'.split()
    kind = [(column, 'O') for column in columns]
    rows = [(number, wnid, 'a fish', '...', 0, [], 0) for wnid, number in IDS.items()]
    rows += [(4, 'n00001740', 'entity', '...', 2, [1, 2], 2)]
    rows += [(5, 'n00001930', 'thing', '...', 1, [3], 1)]
    meta = io.BytesIO()
    savemat(meta, {'synsets': np.array(rows, kind)})
    truth = ''.join(f'{number}\n' for number in numbers)
    with tarfile.open(out / 'ILSVRC2012_devkit_t12.tar.gz', 'w:gz') as archive:
        prefix = 'ILSVRC2012_devkit_t12/data'
        add(archive, f'{prefix}/meta.mat', meta.getvalue())
        add(archive, f'{prefix}/ILSVRC2012_validation_ground_truth.txt', truth.encode())


def shards(root, out, count=7):
    """Shards of class folders, by webdataset; samples lie there in a random order."""
    out.mkdir()
    for split in ('train', 'val'):
        files = sorted((root / split).rglob('*.png'))
        np.random.default_rng(1).shuffle(files)
        pattern = str(out / f'{split}-%04d.tar')
        with webdataset.ShardWriter(pattern, maxcount=count, verbose=0) as sink:
            for file in files:
                wnid = file.parent.name
                key = f'{wnid}/{file.stem}'
                label = WNIDS.index(wnid)
                sink.write({'__key__': key, 'png': file.read_bytes(), 'cls': label})
    return out


def table(files, features=True):
    """Pictures as Hugging Face's parquet has them."""
    image = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
    rows = [{'bytes': file.read_bytes(), 'path': file.name} for file in files]
    labels = [WNIDS.index(file.parent.name) for file in files]
    about = {
        'image': {'_type': 'Image'},
        'label': {'names': list(WNIDS), '_type': 'ClassLabel'},
    }
    schema = pa.schema([('image', image), ('label', pa.int64())])
    if features:
        schema = schema.with_metadata({'huggingface': json.dumps({'info': {'features': about}})})
    return pa.table([pa.array(rows, image), pa.array(labels)], schema=schema)


def hugging_face(root, out, rows=12, group=5):
    """Parquet of class folders, in a folder data/ with the names of the hub."""
    (out / 'data').mkdir(parents=True)
    for split, name in (('train', 'train'), ('val', 'validation')):
        files = sorted((root / split).rglob('*.png'))
        starts = range(0, len(files), rows)
        for number, start in enumerate(starts):
            file = out / 'data' / f'{name}-{number:05}-of-{len(starts):05}.parquet'
            parquet.write_table(table(files[start : start + rows]), file, row_group_size=group)
    return out
