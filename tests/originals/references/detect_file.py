"""A file of GFL through mmdetection's neck and head (3.3.0).

    python detect_file.py GIVEN.npz COMPUTED.npz

GIVEN holds weights, the path of a .pth for mmdetection, and settings, as for detect_gfl.py. The
state of the neck and of the head must be whole. COMPUTED holds the numbers of distances as
`project`. File again.pth in the working folder has the same state, as mmdetection has it; the
backbone, which is UM-MAE's own, is passed through.
"""

import json
import sys

import detect_gfl  # first of all, because it prepares mmdetection
import numpy as np
import torch


def main(given, computed):
    given = dict(np.load(given))
    model = detect_gfl.build(json.loads(str(given['settings'])))
    np.savez(computed, project=model.bbox_head.integral.project.numpy())

    state = torch.load(str(given['weights']), weights_only=True)['state_dict']
    parts = {name: value for name, value in state.items() if not name.startswith('backbone.')}
    model.load_state_dict(parts, strict=True)
    torch.save({'meta': {'epoch': 25}, 'state_dict': state | model.state_dict()}, 'again.pth')


if __name__ == '__main__':
    main(*sys.argv[1:])
