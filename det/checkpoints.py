"""The files of a training: checkpoints of this project, and weights for PaddleDetection."""

import json
from pathlib import Path

from det.dataset import COCODataSet, match_classes
from util import atomic, checkpoint
from util.errors import InputError
from util.weights import paddle_file

BEST, FINAL = 'best_model.pdparams', 'model_final.pdparams'
CLASSES = 'categories.json'  # of the model in BEST and FINAL


class Snapshots(checkpoint.Saver):
    """Writes checkpoint-N.pd every `save_every` epochs, as PaddleDetection counts them.

    best_model.pdparams and model_final.pdparams hold weights alone, which PaddleDetection reads;
    their classes are in categories.json.
    """

    def is_due(self, epoch: int) -> bool:
        """Whether this epoch ends with an evaluation and a checkpoint."""
        is_last = epoch + 1 == self.flags['epochs']
        return (epoch + 1) % self.flags['save_every'] == 0 or is_last

    def after_epoch(self, epoch: int, *names: str) -> None:
        """Save as the base class does, and the weights of the best and of the last epoch."""
        super().after_epoch(epoch, *names)
        if not self._writes():
            return
        files = [BEST] if 'best' in names else []
        if epoch + 1 == self.flags['epochs']:
            files.append(FINAL)
        if files:
            state = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
            self.background.add(lambda: self._write_weights(files, state))

    def _write_weights(self, files: list[str], state: dict) -> None:
        for file in files:
            paddle_file.write(self.folder / file, state)
        path = self.folder / CLASSES
        with atomic.writing(path) as file:
            content = self.kept['categories'].state_dict()
            file.write(json.dumps(content, ensure_ascii=False).encode())


def classes_beside(path: str | Path) -> dict:
    """{'categories': ...} of a file that `Snapshots` wrote without them; {} for any other file."""
    path = Path(path)
    file = path.with_name(CLASSES)
    if path.name not in (BEST, FINAL) or not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        return {'categories': {'ids': content['ids'], 'names': content['names']}}
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise InputError(
            f'{file} cannot be read ({reason}); it has the classes of {path.name}. Without it, '
            'nothing is compared'
        ) from None


class Categories:
    """The ids and names of the classes, in the order of the model's outputs.

    A checkpoint keeps them, and a resumed training compares.
    """

    def __init__(self, dataset: COCODataSet):
        self.ids = list(dataset.category_ids)
        self.names = list(dataset.classes)

    def state_dict(self) -> dict:
        """The ids and names, for a checkpoint."""
        return {'ids': self.ids, 'names': self.names}

    def load_state_dict(self, state: dict) -> None:
        """InputError where a checkpoint has other classes."""
        match_classes(self.state_dict(), state, 'TrainDataset', 'the checkpoint', exact=True)
