"""The tabs beside the first: classes, pixels, objects, features, attention, and curves of runs."""

from pathlib import Path

import gradio as gr
import page_html
import page_models
import page_text as text
import show_attention
import show_neighbours
import show_pca
from page_models import LARGE, Models
from page_parts import ONE, Desk, panel, patch_of, told, weights_of
from show_features import Viewer
from visualize import find

import models_features
from util import panels

WIDE = 280  # pixels, of which a telephone has room for one


def classify(models: Models, desk: Desk) -> None:
    """Add the tab with the most probable classes of the picture."""
    with gr.Tab('Classify') as tab:
        weights = weights_of(models.classifiers)
        label = gr.Label(label=text.CLASSES, num_top_classes=page_models.TOP)

    def answer(file, name):
        return page_models.classify(models.viewers[name], file)

    desk.connect(tab, answer, [weights], [label], [weights.input])


def segment(models: Models, desk: Desk) -> None:
    """Add the tab with the class of each pixel."""
    with gr.Tab('Segment') as tab:
        weights = weights_of(models.segmentors)
        shown = panel(text.SEGMENTED)

    def answer(file, name):
        return page_models.segment(models.segmentors[name], file)

    desk.connect(tab, answer, [weights], [shown], [weights.input])


def detect(models: Models, desk: Desk) -> None:
    """Add the tab with the objects in the picture."""
    with gr.Tab('Detect') as tab:
        weights = weights_of(models.detectors)
        threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label=text.THRESHOLD)
        shown = panel(text.DETECTED)

    def answer(file, name, threshold):
        return page_models.detect(models.detectors[name], file, threshold)

    changes = [weights.input, threshold.input]
    desk.connect(tab, answer, [weights, threshold], [shown], changes)


class FeaturesTab:
    """The pictures of a folder with the nearest features, and the features as colours.

    folder: pictures to search, None for none.
    """

    def __init__(self, models: Models, folder: Path | None):
        self.models = models
        self.folder = folder
        self.searched: dict[tuple, show_neighbours.Among] = {}

    def build(self, desk: Desk) -> None:
        """Add the tab to the page."""
        with gr.Tab('Features') as tab:
            weights = weights_of(self.models.viewers)
            with gr.Row():
                block = gr.Dropdown(self.blocks(weights.value), value=text.OUTPUT, label=text.BLOCK)
                count = gr.Slider(1, 12, 5, step=1, label=text.COUNT, visible=bool(self.folder))
            gr.Markdown(text.NEAREST)
            nearest = gr.HTML(page_html.note(text.NO_FOLDER))
            gr.Markdown(text.COMPONENTS)
            components = gr.HTML()

        weights.input(
            lambda name: gr.Dropdown(self.blocks(name), value=text.OUTPUT), weights, block, **ONE
        )
        changes = [weights.input, block.input, count.input]
        outputs = [nearest, components]
        desk.connect(tab, self.answer, [weights, block, count], outputs, changes)

    def blocks(self, name: str) -> list[str]:
        """The choices of features: of the whole encoder, or of a block."""
        count = len(self.models.viewers[name].model.blocks)
        return [text.OUTPUT, *(f'block {number}' for number in range(count))]

    def answer(self, file: Path, name: str, block: str, count: int) -> list[str]:
        """The nearest pictures and the colours."""
        viewer = self.models.viewers[name]
        number = None if block == text.OUTPUT else int(block.split()[-1])
        number = None if number is not None and number >= len(viewer.model.blocks) else number
        image = viewer.read(file)[None]
        colours = show_pca.sheet(viewer.model, image, viewer.as_pixels(image), number)
        components = page_html.sheet(colours)
        if self.folder is None:
            return [page_html.note(text.NO_FOLDER), components]
        among = self.among(name, viewer, number)
        found = show_neighbours.sheet(among, viewer.as_pixels, [file], int(count))
        return [page_html.sheet(found), components]

    def among(self, name: str, viewer: Viewer, block: int | None) -> show_neighbours.Among:
        """The searched folder with its features, which are computed once."""
        key = name, block
        if key not in self.searched:
            blocks = None if block is None else [block]
            features = models_features.Features(viewer.model, None, blocks)
            files = find(self.folder, viewer.channels, '--among', most=None)
            self.searched[key] = show_neighbours.Among(features, viewer.read, files)
        return self.searched[key]


class AttentionTab:
    """What each head of a block looks at, from the class token or from a patch."""

    def __init__(self, models: Models):
        self.models = models

    def build(self, desk: Desk) -> None:
        """Add the tab to the page."""
        viewers = self.models.attentive
        with gr.Tab('Attention') as tab:
            weights = weights_of(viewers)
            last, patches = self.sizes(weights.value)
            with gr.Row():
                block = gr.Slider(0, last, last, step=1, label=text.BLOCK)
                choices = [(words, query) for query, words in text.QUERIES.items()]
                query = gr.Radio(choices, value='patch', label=text.QUERY)
                patch = gr.Slider(
                    0, patches - 1, patches // 2, step=1, label=text.PATCH, info=text.PATCH_INFO
                )
            with gr.Row():
                seen = panel(text.SEEN, WIDE, elem_id='seen')
                with gr.Column(min_width=WIDE):
                    heads = gr.HTML()

        weights.input(self.settings_of, weights, [block, patch], **ONE)
        seen.select(told(self.clicked), weights, [query, patch], **ONE)
        changes = [weights.input, block.input, query.input, patch.change]
        inputs = [weights, block, query, patch]
        desk.connect(tab, self.answer, inputs, [seen, heads], changes)

    def sizes(self, name: str) -> tuple[int, int]:
        """The number of the last block, and the number of patches."""
        model = self.models.viewers[name].model
        rows, columns = model.patch_embed.grid
        return len(model.blocks) - 1, rows * columns

    def settings_of(self, name: str) -> list:
        """The sliders for other weights."""
        last, patches = self.sizes(name)
        return [
            gr.Slider(maximum=last, value=last),
            gr.Slider(maximum=patches - 1, value=patches // 2),
        ]

    def clicked(self, name: str, place: gr.SelectData) -> list:
        """The query and the patch after a click on the picture."""
        model = self.models.viewers[name].model
        size = model.patch_embed.img_size
        return ['patch', patch_of(place, size, model.patch_embed.grid)]

    def answer(self, file: Path, name: str, block: int, query: str, patch: int) -> list:
        """The picture with a frame around the patch, and the heads."""
        viewer = self.models.viewers[name]
        last, patches = self.sizes(name)
        asked = min(int(patch), patches - 1) if query == 'patch' else query
        images = viewer.read(file)[None]
        pixels = viewer.as_pixels(images)
        found = show_attention.heads(viewer.model, images, pixels, min(int(block), last), asked)
        (shown,) = found.rows
        return [panels.repeated(shown[0], LARGE), page_html.sheet(found, first=1)]


def training(folders: list[str]) -> None:
    """Add the tab with the curves of runs that may still train."""
    with gr.Tab('Training'):
        gr.Markdown(text.CURVES)
        shown = gr.HTML(page_html.curves(folders))
        timer = gr.Timer(text.EVERY)
    timer.tick(
        lambda: page_html.curves(folders),
        None,
        shown,
        api_visibility='private',
        show_progress='hidden',
    )


def others(models: Models, desk: Desk, folder: Path | None, runs: list[str]) -> None:
    """Add the tabs for which there are weights, or runs."""
    if models.classifiers:
        classify(models, desk)
    if models.segmentors:
        segment(models, desk)
    if models.detectors:
        detect(models, desk)
    if models.viewers:
        FeaturesTab(models, folder).build(desk)
    if models.attentive:
        AttentionTab(models).build(desk)
    if runs:
        training(runs)
