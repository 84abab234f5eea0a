"""timm reads the shards of util.data.pack, and torchvision reads the devkit as we do."""

import numpy as np
import toy_archives

from util.data import folder, pack, pictures
from util.data.archives import imagenet


def test_timm_reads_our_shards_and_torchvision_the_devkit(reference, tmp_path):
    folders = toy_archives.folders(tmp_path / 'folder')
    packed = tmp_path / 'packed'
    flags = [folders, packed, '--in_chans', 1, '--shard_size', '16K', '--num_workers', 0]
    pack.main(pack.PARSER.parse_args(list(map(str, flags))))
    devkit = tmp_path / 'devkit'
    toy_archives.imagenet(folders, devkit)
    theirs = reference('archives', shards=str(packed), devkit=str(devkit))

    for split in ('train', 'val'):
        images = folder.find(str(folders), split, pictures.PICTURES)
        ours = set()
        for index, path in enumerate(images.paths):
            ours.add((np.asarray(pictures.read(path, 1)).tobytes(), images.labels[index]))
        pairs = zip(theirs[f'{split}_pixels'], theirs[f'{split}_labels'].tolist())
        assert {(pixels.tobytes(), label) for pixels, label in pairs} == ours
        assert len(theirs[f'{split}_labels']) == len(images)
    assert imagenet.read_devkit(devkit / imagenet.DEVKIT) == theirs['wnids'].tolist()
