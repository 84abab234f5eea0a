"""What is measured, as data; no framework is imported here.

A case is one line of the table, measured with each of its `sides` in turn. It has the letter of its
group. The meaning of `what` depends on the kind:
    export: precision                load: the augmentation, `fast` for --fast_resize
    folder: the engine               processes: their number
    startup: the program             pretrain, finetune: --amp, '' for its default
    all others: unused
"""

import dataclasses
import itertools

GROUPS = {  # letter -> title
    'a': 'A training step of pre-training',
    'b': 'A training step of fine-tuning, with mixup, cutmix, drop path and layer decay',
    'c': 'Inference, arrays in and scores out',
    'd': 'Loading 64 JPEGs of 500 x 375, decoding included, in one process',
    'e': 'A training step of segmentation, UPerNet',
    'f': 'From the command to the end of the first step, nano',
    'h': 'A step of `main_pretrain.py`, ViT-B, 8 images in all',
    'i': 'Growth of a pre-training step, ViT-B; batch 8 is above',
    'j': 'Converting a file of 2.6 GB',
    'k': 'Of an epoch of `main_pretrain.py`, ViT-B: lost to saving, logging, waiting for data',
    'l': 'A training step of detection, GFL, 7 objects an image',
}
ALIASES = {'g': 'abel'}  # peak memory is a column of these
BOTH = ('paddle', 'torch')


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table.

    model: a key of models_sizes.SIZES, for `detect` of PYRAMIDS, or for compare.py another
    autoencoder's full name. cost: the seconds, roughly, that the case takes on two cores; the time
    left is estimated from it. steps: of a turn. rounds: the turns that count. warm: the turns
    before them, which do not count.
    """

    name: str
    kind: str
    label: str
    model: str = 'base_patch16'
    batch: int = 8
    side: int = 224
    mask_ratio: float = 0.75
    what: str = ''
    rounds: int = 5
    steps: int = 1
    warm: int = 1
    cost: float = 20.0
    sides: tuple[str, ...] = BOTH

    @property
    def group(self) -> str:
        return self.name[0]


def _growth() -> list[Case]:
    batches = [
        Case(f'i_batch_{n}', 'pretrain', f'batch {n}', batch=n, rounds=2, cost=10 + 2.5 * n)
        for n in (1, 2, 4, 16)
    ]
    sides = [
        Case(f'i_side_{side}', 'pretrain', f'batch 2, {side} pixels a side',
             batch=2, side=side, rounds=2, cost=10 + 5 * (side / 224) ** 2)
        for side in (288, 336, 448)
    ]  # fmt: skip
    # with a mask ratio of 0 no patch would be masked, and there would be no loss
    ratios = [
        Case(f'i_mask_{100 * ratio:.0f}', 'pretrain', f'batch 2, mask ratio {ratio}',
             batch=2, mask_ratio=ratio, rounds=2, cost=17)
        for ratio in (0.01, 0.5, 0.9)
    ]  # fmt: skip
    return [*batches, *sides, *ratios]


CASES = [
    Case('a_vit_base', 'pretrain', 'ViT-B, batch 8', cost=50),
    Case('a_vit_base_bf16', 'pretrain', 'ViT-B, batch 8, `--amp bfloat16`', what='bfloat16',
         cost=30),
    Case('a_vit_large', 'pretrain', 'ViT-L, batch 2', 'large_patch16', 2, rounds=4, cost=40),
    Case('a_nano', 'pretrain', 'nano, 32 pixels a side, batch 128', 'nano_patch4', 128, 32,
         steps=5, cost=25),
    Case('b_vit_base', 'finetune', 'ViT-B, batch 8', rounds=4, cost=65),
    Case('b_vit_base_bf16', 'finetune', 'ViT-B, batch 8, `--amp bfloat16`', what='bfloat16',
         rounds=4, cost=35),
    *[
        Case(f'c_live_{n}', 'infer', f'ViT-B, batch {n}',
             batch=n, steps=5 if n == 1 else 1, cost=28)
        for n in (1, 8)
    ],
    *[
        Case(f'c_exported_{precision}_{n}', 'export', f'ViT-B exported, {precision}, batch {n}',
             batch=n, what=precision, steps=5 if n == 1 else 1, cost=35)
        for precision, n in itertools.product(('fp32', 'bf16'), (1, 8))
    ],
    *[
        Case(f'c_folder_{engine}', 'folder',
             f'ViT-B{exported}, 64 JPEGs of 500 x 375 to labels, batch 8',
             batch=64, what=engine, rounds=3, warm=0, cost=140)
        for engine, exported in (('live', ''), ('inference', ' exported'))
    ],
    Case('d_pretrain', 'load', 'for pre-training', what='pretrain', batch=64, cost=20),
    Case('d_pretrain_fast', 'load', 'for pre-training, `--fast_resize`',
         what='fast', batch=64, cost=20),
    Case('d_finetune', 'load', 'for fine-tuning', what='finetune', batch=64, cost=20),
    Case('e_tiny', 'segment', 'tiny, 32 pixels a side, batch 16', 'nano_patch4', 16, 32,
         rounds=3, steps=3, cost=30),
    Case('e_vit_base', 'segment', 'ViT-B, 512 pixels a side, batch 1',
         batch=1, side=512, rounds=2, cost=170),
    *[
        Case(f'f_{program}', 'startup', f'`main_{program}.py`', 'nano_patch4', 16, 32,
             what=program, rounds=3, cost=35)
        for program in ('pretrain', 'finetune', 'linprobe', 'infer')
    ],
    Case('h_one', 'processes', '1 process, all threads',
         what='1', rounds=2, steps=3, warm=0, cost=75),
    Case('h_two', 'processes', '2 processes, half of the threads each',
         what='2', rounds=2, steps=3, warm=0, cost=75),
    *_growth(),
    Case('j_vit_huge', 'convert', 'ViT-H; PyTorch: `torch.load`, `torch.save`', 'huge_patch14', 1,
         rounds=2, warm=0, cost=60),
    Case('k_vit_base', 'epoch', '64 images, batch 8',
         batch=8, rounds=1, warm=0, cost=45, sides=('paddle',)),
    Case('l_nano', 'detect', 'nano Swin, 128 pixels a side, batch 8', 'swin_nano_64', 8, 128,
         rounds=5, steps=3, cost=40),
    Case('l_swin_tiny', 'detect', 'Swin-T, 512 pixels a side, batch 1', 'swin_tiny_256', 1, 512,
         rounds=3, cost=60),
]  # fmt: skip


def chosen(words: list[str]) -> list[Case]:
    """The cases of these names and letters, or all cases if there are none.

    ValueError for a word that is neither a name nor a letter.
    """
    known = {case.name for case in CASES} | GROUPS.keys() | ALIASES.keys()
    if unknown := [word for word in words if word not in known]:
        raise ValueError(
            f'no case {unknown[0]!r}; there are {", ".join(case.name for case in CASES)}, '
            f'and the letters {" ".join(sorted(GROUPS.keys() | ALIASES.keys()))}'
        )
    letters = ''.join(ALIASES.get(word, word) for word in words if len(word) == 1)
    return [case for case in CASES if not words or case.name in words or case.group in letters]


def small(case: Case) -> Case:
    """The case with a tiny model, which takes seconds: for the tests."""
    model = 'swin_nano_64' if case.kind == 'detect' else 'nano_patch4'
    return dataclasses.replace(case, model=model, side=32, batch=min(case.batch, 2), steps=1)
