"""The page's first tab: hide patches of a picture, and see what the model makes of the rest."""

import tempfile
from pathlib import Path

import gradio as gr
import page_html
import page_text as text
from page_models import LARGE, Models, check
from page_parts import ONE, Desk, panel, patch_of, told, weights_of
from page_reconstruct import Mask, command, parsed, reconstruction, toggled
from show_reconstruction import MASK_RATIO

from util import masking, panels


class MasksTab:
    """Controls, panels, and how they follow from each other.

    own: whether a person has chosen the patches; else they are drawn from the seed.
    resumes: the path of each weight file, for the command.
    """

    def __init__(self, models: Models, resumes: dict[str, str]):
        self.models = models
        self.resumes = resumes
        self.saved = Path(tempfile.mkdtemp()) / 'panels.png'

    def build(self, desk: Desk) -> None:
        """Add the tab to the page."""
        first = next(iter(self.models.painters))
        with gr.Tab('Reconstruct') as tab:
            self.own = gr.State(False)
            self.weights = weights_of(self.models.painters)
            self._add_controls(first)
            self._add_panels()
            with gr.Accordion(text.REASONS, open=False):
                said = self.models.said[first]
                self.normalised = gr.Checkbox(
                    said is not False, label=text.NORMALISED, info=text.SAID[said]
                )
                gr.Markdown(text.reasons())
        self._connect(tab, desk)

    def _add_controls(self, first: str) -> None:
        kinds = self.models.painters[first].kinds
        with gr.Row():
            self.kind = gr.Radio(list(kinds), value=kinds[0], label=text.KIND, scale=3)
            self.ratio = gr.Slider(
                0.05,
                0.95,
                MASK_RATIO,
                step=0.01,
                label=text.RATIO,
                info=text.RATIO_INFO,
                scale=3,
                elem_id='ratio',
            )
            with gr.Column(min_width=150):
                self.seed = gr.Number(1, label=text.SEED, precision=0, minimum=0)
                self.another = gr.Button(text.ANOTHER, variant='primary', size='md')

    def _add_panels(self) -> None:
        with gr.Row():
            self.panels = [
                panel('Original', elem_id='original'),
                panel('Masked', elem_id='masked'),
                panel('Reconstruction', elem_id='reconstruction'),
                panel('Reconstruction + visible', elem_id='both'),
            ]
        self.note = gr.HTML()
        self.visible = gr.Textbox(
            label=text.VISIBLE, info=text.VISIBLE_INFO, elem_id='visible', max_lines=3
        )
        with gr.Row():
            self.slider = gr.ImageSlider(
                label=text.SLIDER, interactive=False, format='png', min_width=280, max_height=480
            )
            with gr.Column(min_width=280):
                self.errors = gr.HTML()
                self.command = gr.Textbox(
                    label=text.COMMAND,
                    interactive=False,
                    buttons=['copy'],
                    lines=2,
                    elem_id='command',
                )
                self.save = gr.DownloadButton(text.SAVE, elem_id='save')

    def _connect(self, tab: gr.Tab, desk: Desk) -> None:
        controls = [self.weights, self.kind, self.ratio, self.seed]
        more = [self.visible, self.own, self.normalised]
        inputs = [*controls, *more]
        outputs = [*self.panels, self.note, self.visible, self.own, self.slider]
        outputs += [self.errors, self.command, self.save]
        desk.connect(tab, self.kept, inputs, outputs, [self.normalised.input])

        asked = [desk.picture, *inputs]
        drawing = [self.kind.input, self.ratio.input, self.seed.input]
        gr.on(drawing, told(self.drawn), asked, outputs, **ONE)
        self.visible.submit(told(self.chosen), asked, outputs, **ONE)
        self.panels[1].select(told(self.clicked), asked, outputs, **ONE)
        counted = self.another.click(self.next_seed, self.seed, self.seed, **ONE)
        counted.then(told(self.drawn), asked, outputs, **ONE)
        switched = [self.kind, self.ratio, self.normalised]
        changed = self.weights.input(self.settings_of, self.weights, switched, **ONE)
        changed.then(told(self.drawn), asked, outputs, **ONE)
        self.kind.change(self.ratio_of, self.kind, self.ratio, **ONE)

    def next_seed(self, seed) -> int:
        """The seed of another mask."""
        return int(seed or 0) + 1

    def settings_of(self, name: str) -> list:
        """The kinds of masks, the ratio and the switch for other weights."""
        painter, said = self.models.painters[name], self.models.said[name]
        kinds = list(painter.kinds)
        can_switch = not painter.model.pca_target
        switch = gr.Checkbox(said is not False, info=text.SAID[said], interactive=can_switch)
        return [gr.Radio(kinds, value=kinds[0]), self.ratio_of(kinds[0]), switch]

    def ratio_of(self, kind: str) -> gr.Slider:
        """The slider of the ratio; masks made of cells of patches remove three quarters."""
        if kind in masking.CELLS:
            return gr.Slider(value=MASK_RATIO, interactive=False)
        return gr.Slider(interactive=True)

    def drawn(self, file, name, kind, ratio, seed, visible, own, normalised) -> list:
        """All outputs for a mask that is drawn from the seed."""
        if kind in masking.CELLS:
            ratio = MASK_RATIO
        mask = Mask(ratio, kind, int(seed or 0))
        return self.answer(check(file), name, mask, normalised)

    def chosen(self, file, name, kind, ratio, seed, visible, own, normalised) -> list:
        """All outputs for the patches that are named."""
        return self.answer(check(file), name, Mask(visible=visible), normalised)

    def kept(self, *values) -> list:
        """All outputs for a mask that is chosen as it was."""
        *_, own, _ = values
        show = self.chosen if own else self.drawn
        return show(*values)

    def clicked(
        self, file, name, kind, ratio, seed, visible, own, normalised, place: gr.SelectData
    ) -> list:
        """All outputs after a click on a patch of the masked picture."""
        painter = self.models.painters[name]
        patch = patch_of(place, painter.model.img_size, painter.model.grid)
        numbers = toggled(parsed(visible), patch, painter)
        named = ','.join(map(str, numbers))
        return self.answer(check(file), name, Mask(visible=named), normalised)

    def answer(self, file: Path, name: str, mask: Mask, normalised: bool) -> list:
        """All outputs for a mask."""
        painter = self.models.painters[name]
        found = reconstruction(painter, file, mask, normalised)
        shown = [panels.repeated(pixels, LARGE) for pixels in found.sheet.rows[0]]
        note = page_html.note(found.sheet.note)
        visible = ','.join(map(str, found.visible))
        sides = (shown[0], shown[3])
        errors = page_html.bars(text.ERROR, found.errors)
        flag = self.pixels_flag(name, normalised)
        same = command(self.resumes[name], file, mask, flag)
        saved = self.written(found.sheet)
        is_own = mask.visible is not None
        return [*shown, note, visible, is_own, sides, errors, same, saved]

    def pixels_flag(self, name: str, normalised: bool) -> str:
        """The flag that tells demo/visualize.py what a file predicts, if the file does not."""
        if self.models.said[name] is not None:
            return ''
        return '--norm_pix_loss' if normalised else '--no_norm_pix_loss'

    def written(self, sheet: panels.Sheet) -> str:
        """A file with the sheet, as demo/visualize.py writes it; gradio takes a copy of it."""
        panels.write(sheet.drawn(), self.saved)
        return str(self.saved)
