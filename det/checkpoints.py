"""The files of a training: checkpoints of this project, and weights for PaddleDetection."""

from pathlib import Path

from det.dataset import COCODataSet, match_classes
from util import checkpoint
from util.weights import paddle_file

BEST, FINAL = 'best_model.pdparams', 'model_final.pdparams'


class Snapshots(checkpoint.Saver):
    """Writes checkpoint-N.pd every `save_every` epochs, as PaddleDetection counts them.

    best_model.pdparams and model_final.pdparams hold weights alone, which PaddleDetection reads.
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
        if 'best' in names:
            self._write_weights(self.folder / BEST)
        if epoch + 1 == self.flags['epochs']:
            self._write_weights(self.folder / FINAL)

    def _write_weights(self, path: Path) -> None:
        state = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        paddle_file.write(path, state)


class Categories:
    """The (id, name) of each class, in the order of the model's outputs.

    A checkpoint keeps them, and a resumed training compares.
    """

    def __init__(self, dataset: COCODataSet):
        self.pairs = [list(pair) for pair in dataset.categories]

    def state_dict(self) -> list[list]:
        """The pairs, for a checkpoint."""
        return self.pairs

    def load_state_dict(self, state: list[list]) -> None:
        """InputError where a checkpoint has other classes."""
        match_classes(
            here=self.pairs,
            there=state,
            name_here='TrainDataset',
            name_there='the checkpoint',
            exact=True,
        )
