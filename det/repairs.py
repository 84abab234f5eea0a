"""Repairs of PaddleDetection 2.6.0: how it is imported."""

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

PACKAGES = ('ppdet', 'ppdet.modeling')  # their __init__.py would import everything
INSTALL = 'bash requirements/install.sh .venv requirements.txt requirements/det.txt'


def import_parts() -> None:
    """Import the parts of PaddleDetection that `det` uses, and nothing else of it.

    `import ppdet` takes three seconds more, because it imports all models and trackers. It also
    prints warnings about trackers, turns off Python's warnings, and lets Pillow read half of a
    damaged picture. It still works after this, with the same registry.
    """
    if PACKAGES[0] in sys.modules:
        return
    found = util.find_spec(PACKAGES[0])
    if found is None:
        raise ModuleNotFoundError(f'PaddleDetection is missing: {INSTALL}', name=PACKAGES[0])

    # An empty package in the place of each real one, for as long as its parts are imported
    site = Path(found.origin).parents[1]
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(site.joinpath(*name.split('.')))]
        sys.modules[name] = package
    try:
        import ppdet.core.workspace
        import ppdet.modeling.bbox_utils
        import ppdet.modeling.shape_spec  # noqa: F401
    finally:
        for name in PACKAGES:
            del sys.modules[name]
