"""What runs without a GPU."""
from dataclasses import dataclass

from util.recipes import paper
from util.recipes.recipe import Recipe

RECIPES = [Recipe(
    name='digits', program='demo/reproduce.py', model='vit_nano_patch4', data='scanned digits',
    flags='--out demo/output/reproduce', source='arXiv:2111.06377, its questions at a small scale', notes=(
        '66 runs of the three programs, three seeds of each; some 90 minutes of one core, judged by single runs',
        '--full: 135 runs more, of the ablations, some 6 hours'))]


@dataclass(frozen=True)
class Choice:
    """What an ablation tries: the name of its folders, what it changes in the usual pre-training, how many times as long
    that is, and the encoder. Without flags (None) there is no pre-training."""
    name: str
    flags: str | None = ''
    length: float = 1
    encoder: str = 'vit_nano_patch4'


def _swin(name: str, flags: str | None) -> Choice:
    return Choice(f'swin_{name}', flags, encoder='swin_nano_32')


USUAL = Choice('0.75')  # the pre-training that the other figures of demo/reproduce.py begin from
# What is varied -> choice. Titles and choices are those of paper.ABLATIONS where the paper has them. Random masks leave a
# pyramid no smaller image to run on, so for a Swin they are SimMIM's, whose encoder sees mask tokens in their place.
ABLATIONS = {
    'decoder depth, in blocks': {
        '1': Choice('depth_1', '--model mae_vit_nano_patch4_dec64d1b'), '2': USUAL,
        '4': Choice('depth_4', '--model mae_vit_nano_patch4_dec64d4b')},
    'target': {'pixels': USUAL, 'normalised pixels': Choice('normalised', '--norm_pix_loss')},
    'mask': {
        'random, 75 %': USUAL, 'block, 50 %': Choice('block_50', '--masking block --mask_ratio 0.5'),
        'block, 75 %': Choice('block_75', '--masking block'), 'grid, 75 %': Choice('grid_75', '--masking grid'),
        'uniform, 75 %': Choice('uniform_75', '--mask_regular')},
    paper.LENGTH: {'0.25': Choice('length_0.25', length=0.25), '1': USUAL, '4': Choice('length_4', length=4)},
    'Swin': {
        'UM-MAE': _swin('um', '--model mae_swin_nano_32 --mask_regular'),
        'and secondary masks': _swin('um_secondary', '--model mae_swin_nano_32 --mask_regular --vis_mask_ratio 0.25'),
        'SimMIM, random masks': _swin('simmim', '--model simmim_swin_nano_32'),
        'SimMIM, uniform masks': _swin('simmim_uniform', '--model simmim_swin_nano_32 --mask_regular'),
        'no pre-training': _swin('none', None)},
}
