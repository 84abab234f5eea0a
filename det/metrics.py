"""COCO's average precision, computed by pycocotools from detections.

The truth is the json as it is: boxes are not clipped and none are left out. Only ids of
annotations are numbered anew, because pycocotools takes an id of 0 for no match and the last of two
equal ids for both. Crowds are ignored as pycocotools does.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from det import masks
from det.dataset import COCODataSet, match_classes
from det.detections import Detections
from util import atomic, dist, log
from util.errors import InputError

FIGURES = tuple('AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl'.split())
FILES = {'bbox': 'bbox.json', 'segm': 'mask.json'}
# If AP50 without regard to classes is at least this, and AP50 below this share of it, the classes
# are probably numbered differently in the model and in the file
GOOD, SHARE = 0.3, 0.2


class Evaluation:
    """Collects detections and computes COCO's figures.

    categories: the classes of the model as COCODataSet.categories, in the order of its outputs;
    without them they are those of the data set. InputError if the data set has a class that the
    model has not, or has by another id or name.
    """

    def __init__(self, dataset: COCODataSet, categories: dict | None = None):
        if categories is not None:
            match_classes(dataset.categories, categories, dataset.anno_path, 'the model')
        self.dataset = dataset
        self.categories = categories or dataset.categories
        self.sizes = {}
        for image in dataset.all_images:
            self.sizes[image['id']] = (image['height'], image['width'])
        self.results = {'bbox': []}  # in COCO's format; and 'segm' if there are masks
        self.seen = set()  # ids of the images
        if len(dataset) < len(dataset.all_images):
            log.warn(
                f'{dataset.anno_path}: only {len(dataset)} of {len(dataset.all_images)} pictures '
                'are evaluated; allow_empty: true and min_side: 0 evaluate all, as COCO does'
            )

    def add(self, im_id: int, detections: Detections) -> None:
        """Add what was found in an image; InputError where it is no image of the data set."""
        im_id = int(im_id)
        if im_id not in self.sizes:
            raise InputError(f'{self.dataset.anno_path} has no image with the id {im_id}')
        if im_id in self.seen:
            raise InputError(f'the image with the id {im_id} was evaluated twice')
        self.seen.add(im_id)

        labels = np.asarray(detections.classes, 'int64')
        self._check_labels(labels)
        boxes = np.asarray(detections.boxes, 'float64').reshape(-1, 4)
        scores = np.asarray(detections.scores, 'float64')
        finite = np.isfinite(boxes).all() and np.isfinite(scores).all()
        if not finite:
            raise InputError(f'boxes or scores of the image with the id {im_id} are not finite')
        corner = boxes[:, :2]
        size = boxes[:, 2:] - corner
        coco_boxes = np.concatenate([corner, size], axis=1).tolist()
        common = []
        for label, score in zip(labels, scores.tolist()):
            category = self.categories['ids'][label]
            common.append({'image_id': im_id, 'category_id': category, 'score': score})

        for result, box in zip(common, coco_boxes):
            self.results['bbox'].append(result | {'bbox': box})
        if detections.masks is None:
            return
        found = self.results.setdefault('segm', [])
        for result, mask in zip(common, detections.masks):
            rle = self._encoded(mask, im_id)
            found.append(result | {'segmentation': rle})

    def _check_labels(self, labels: np.ndarray) -> None:
        """InputError if the model has more classes than the data set."""
        classes = len(self.categories['ids'])
        largest = labels.max(initial=0)
        if largest >= classes:
            raise InputError(
                f'the model found class {largest}, counted from 0, but {self.dataset.anno_path} '
                f'has {classes} categories'
            )

    def _encoded(self, mask: np.ndarray | dict, im_id: int) -> dict:
        """The RLE of a mask as it stands in mask.json, where counts is text."""
        if not isinstance(mask, dict):
            mask = masks.encode(mask)
        size = [int(side) for side in mask['size']]
        if tuple(size) != self.sizes[im_id]:
            raise InputError(
                f'a mask of the image with the id {im_id} is {size} (height, width), '
                f'the image {list(self.sizes[im_id])}'
            )
        counts = mask['counts']
        return {'size': size, 'counts': counts if isinstance(counts, str) else counts.decode()}

    def gather(self) -> None:
        """Join the detections of all ranks, which must have evaluated different images."""
        ranks = dist.gather({'seen': sorted(self.seen), 'results': self.results})
        self.seen = set()
        self.results = {'bbox': []}
        for part in ranks:
            self.seen.update(part['seen'])
            for kind, results in part['results'].items():
                self.results.setdefault(kind, []).extend(results)

    def write(self, folder: str | Path) -> list[Path]:
        """Write bbox.json, and mask.json if there are masks; the paths."""
        written = []
        for kind, results in self.results.items():
            path = Path(folder) / FILES[kind]
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic.writing(path) as file:
                file.write(json.dumps(results).encode())
            written.append(path)
        return written

    def figures(self, classwise: bool = False) -> dict:
        """{'bbox': {'AP': ..., 'AP50': ...}, 'segm': ...}, the names of FIGURES.

        -1 where there is no truth, as in pycocotools. classwise: each also has `classes`, the AP by
        the names of classes. Warns if the classes seem to be numbered differently.
        """
        truth = self._truth()
        figures = {}
        for kind, results in self.results.items():
            found = _loaded(truth, results)
            evaluated = _evaluated(truth, found, kind)
            numbers = dict(zip(FIGURES, evaluated.stats.tolist()))
            if kind == 'bbox':
                self._check_classes(truth, found, numbers)
            if classwise:
                numbers['classes'] = self._by_class(evaluated)
            figures[kind] = numbers
        return figures

    def _truth(self) -> COCO:
        """The objects of the data set for pycocotools, numbered from 1."""
        objects = self.dataset.objects
        images = self.dataset.all_images
        ids = self.dataset.category_ids
        entries = []
        for row in range(len(objects.image)):
            image = images[objects.image[row]]
            entry = {
                'id': row + 1,
                'image_id': image['id'],
                'category_id': ids[objects.category[row]],
                'bbox': objects.boxes[row].tolist(),
                'area': float(objects.areas[row]),
                'iscrowd': int(objects.crowd[row]),
            }
            if 'segm' in self.results:
                entry['segmentation'] = self._mask_of(row, image)
            entries.append(entry)

        categories = [{'id': key, 'name': name} for key, name in zip(ids, self.dataset.classes)]
        return _coco(images, categories, entries)

    def _mask_of(self, row: int, image: dict) -> dict:
        """The RLE of an object; InputError if the json has none."""
        segmentations = self.dataset.objects.segmentations
        if segmentations is None:
            raise InputError(
                'the model makes masks: with_masks: true in EvalDataset reads those of the json'
            )
        segmentation = segmentations[row]
        if segmentation is None:
            raise InputError(
                f'{self.dataset.anno_path}: an object of the image with the id {image["id"]} has '
                'no segmentation, which figures of masks need'
            )
        return masks.to_rle(segmentation, image['height'], image['width'])

    def _check_classes(self, truth: COCO, found: COCO, numbers: dict) -> None:
        """Warn if boxes are found, but as objects of other classes."""
        if numbers['AP50'] < 0 or numbers['AP50'] >= GOOD * SHARE or len(self.dataset.classes) == 1:
            return
        regardless = _evaluated(truth, found, 'bbox', use_classes=False)
        ap50 = regardless.stats[1]
        if ap50 >= GOOD and numbers['AP50'] < SHARE * ap50:
            log.warn(
                f'AP50 is {numbers["AP50"]:.3f}, but {ap50:.3f} without regard to classes: are the '
                f'classes of the model in the order of the category ids of '
                f'{self.dataset.anno_path}?'
            )

    def _by_class(self, evaluated: COCOeval) -> dict[str, float]:
        """The AP of each class, over all areas and with all detections; -1 without truth."""
        precision = evaluated.eval['precision'][:, :, :, 0, -1]  # [IoU, recall, class]
        by_class = {}
        for place, name in enumerate(self.dataset.classes):
            values = precision[:, :, place]
            known = values[values > -1]
            by_class[name] = float(known.mean()) if known.size else -1.0
        return by_class


@contextlib.contextmanager
def _silent():
    """A block in which pycocotools prints nothing."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _coco(images: list[dict], categories: list[dict], entries: list[dict]) -> COCO:
    """A pycocotools data set made of these lists."""
    made = COCO()
    made.dataset = {'images': images, 'categories': categories, 'annotations': entries}
    with _silent():
        made.createIndex()
    return made


def _loaded(truth: COCO, results: list[dict]) -> COCO:
    """Detections for pycocotools, which cannot load an empty list."""
    if not results:
        return _coco(truth.dataset['images'], truth.dataset['categories'], [])
    copies = [dict(result) for result in results]  # pycocotools adds keys to them
    with _silent():
        return truth.loadRes(copies)


def _evaluated(truth: COCO, found: COCO, kind: str, use_classes: bool = True) -> COCOeval:
    evaluation = COCOeval(truth, found, kind)
    evaluation.params.useCats = int(use_classes)
    with _silent():
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def table(figures: dict) -> str:
    """The figures as lines of text, with those of classes if they are there; `-` without truth."""
    lines = [' '.join(['    ', *(f'{name:>6}' for name in FIGURES)])]
    for kind, numbers in figures.items():
        shown = [_shown(numbers[name]) for name in FIGURES]
        lines.append(' '.join([kind, *shown]))
    for kind, numbers in figures.items():
        by_class = numbers.get('classes', {})
        lines += [f'{kind} {_shown(ap)}  {name}' for name, ap in by_class.items()]
    return '\n'.join(lines)


def _shown(value: float) -> str:
    """A figure in six characters; pycocotools' -1 means that there is nothing to find."""
    return f'{value:6.3f}' if value >= 0 else f'{"-":>6}'
