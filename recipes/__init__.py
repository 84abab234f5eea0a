"""Every published run of the covered systems as data.

    python -m recipes
    python -m recipes finetune_vit_base --devices 8 --batch_size 128

A recipe holds a run's program, flags and devices, its source, and the accuracy and time to expect.
The table, the commands of the READMEs and the front page of reports/ are made from the recipes or
tested against them. In a command, DATA stands for your data set and CHECKPOINT for the weights that
`checkpoint` names: a file, or the result of another recipe. Where `file` names published weights,
they can replace that result.
"""

import difflib

from recipes import detect, official, paper, ports, segment, small, um_mae
from recipes.recipe import Figure, Recipe, command, wrapped
from util.errors import InputError

FAMILIES = (small, official, paper, ports, um_mae, segment, detect)
ALL = [recipe for family in FAMILIES for recipe in family.RECIPES]
RECIPES = {recipe.name: recipe for recipe in ALL}
__all__ = ['ALL', 'RECIPES', 'Figure', 'Recipe', 'command', 'find', 'wrapped']


def find(name: str) -> Recipe:
    """The recipe of that name. Raises InputError with the closest names where there is none."""
    if name in RECIPES:
        return RECIPES[name]
    closest = difflib.get_close_matches(name, RECIPES)
    if closest:
        hint = f'the closest names are {", ".join(closest)}'
    else:
        hint = 'python -m recipes lists all of them'
    raise InputError(f'no recipe is called {name}; {hint}')
