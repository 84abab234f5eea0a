"""What runs without a GPU."""
from util.recipes.recipe import Recipe

RECIPES = [Recipe(
    name='digits', program='demo/reproduce.py', model='vit_nano_patch4', data='scanned digits',
    flags='--out demo/output/reproduce', source='arXiv:2111.06377, its questions at a small scale', notes=(
        '66 runs of the three programs, three seeds of each; some 90 minutes of one core, judged by single runs',))]
