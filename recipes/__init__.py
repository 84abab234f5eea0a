"""Every published run of the covered systems as data: program, flags, devices, figure and time to expect, source.

    python -m recipes
    python -m recipes finetune_vit_base --devices 8 --batch_size 128

The table, the commands of the READMEs and the front page of reports/ are made from these recipes or tested against them.
DATA stands for a data set of the reader's, CHECKPOINT for what `checkpoint` names: a file, or another recipe's result,
for which the published `file` does as well.
"""

import difflib

from recipes import official, ports, segment, small, um_mae
from recipes.recipe import Figure, Recipe, command, wrapped
from util.errors import InputError

ALL = [*small.RECIPES, *official.RECIPES, *ports.RECIPES, *um_mae.RECIPES, *segment.RECIPES]
RECIPES = {recipe.name: recipe for recipe in ALL}
__all__ = ['ALL', 'RECIPES', 'Figure', 'Recipe', 'command', 'find', 'wrapped']


def find(name: str) -> Recipe:
    """The recipe of that name; InputError with the nearest names where there is none."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES)
        raise InputError(
            f'no recipe is called {name}; '
            + (f'near it are {", ".join(near)}' if near else 'python -m recipes lists them')
        )
    return RECIPES[name]
