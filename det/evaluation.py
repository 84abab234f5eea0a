"""COCO's figures of a model, over all processes."""

from det import batches
from det.dataset import COCODataSet
from det.inference import detect, live
from det.metrics import FIGURES, Evaluation
from util import dist
from util.errors import InputError
from util.progress import bar


def evaluate(
    model,
    samples: batches.Samples,
    batch_size: int,
    *,
    num_workers: int = 0,
    timeout: float = 0,
    categories: dict | None = None,
    run=None,
    output_dir: str | None = None,
    save_only: bool = False,
    classwise: bool = False,
) -> dict:
    """{'bbox': {'AP': ...}, 'segm': {...}} of a data set, equal on all ranks.

    categories: ids and names of the model's classes, where its file has them; InputError where they
    are not those of the data set. run: runs a stage of the model; by default the live model.
    output_dir: folder of bbox.json and mask.json. save_only: write these, and give back {}.
    classwise: also the AP of each class.
    """
    if not save_only:
        check_masks(model, samples.dataset)
    metric = Evaluation(samples.dataset, categories)
    model.eval()
    run = run or live(model)
    order, prepared = batches.evaluated(samples, batch_size, num_workers, timeout)
    for batch in bar(prepared, 'batches', total=len(order)):
        found = detect(model, run, batch)
        for image, detections in zip(batch['im_id'].tolist(), found):
            metric.add(image, detections)
    metric.gather()
    if output_dir and dist.is_main():
        metric.write(output_dir)
    return {} if save_only else metric.figures(classwise)


def check_masks(model, dataset: COCODataSet) -> None:
    """InputError if the model makes masks, but the data set was read without its own."""
    if 'masks' in model.stages() and not dataset.with_masks:
        raise InputError(
            'the model makes masks: with_masks: true in EvalDataset reads those of '
            f'{dataset.anno_path}'
        )


def flat(figures: dict) -> dict[str, float]:
    """The figures as one dict, for a line of log.txt: bbox_AP, bbox_AP50 and so on."""
    named = {}
    for kind, numbers in figures.items():
        for name in FIGURES:
            named[f'{kind}_{name}'] = numbers[name]
    return named
