"""See what models do with a picture, in a browser on this machine.

    python demo/page.py
    python demo/page.py --resume demo/weights/digits.pd checkpoint-199.pd --among FOLDER
    python demo/page.py --output_dir output_dir

It needs requirements/page.txt. Each kind of weights brings its tabs: reconstructions and masks
(autoencoders), classes (classifiers), pixels (segmentors), objects (detectors), features and
attention (encoders). --output_dir shows the curves of a run that is still training. Only this
machine sees the page, and the page asks no other.
"""

import argparse
import os
import shutil
import threading
from pathlib import Path

import page_guard

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import page_models

from util import cli, log, program
from util.data import pictures
from util.errors import InputError

DEMO = Path(__file__).parent
EXAMPLES = [str(DEMO / name) for name in ('three.png', 'photographs', 'scenes')]
MOST_EXAMPLES = 24
MOST_BYTES = '20mb'  # of an uploaded file
# gradio's own colours of these have less contrast than the 4.5 to 1 that can be read with ease
CONTRASTS = {
    'body_text_color_subdued': '*neutral_600',
    'button_primary_background_fill': '*primary_700',
    'button_primary_background_fill_dark': '*primary_700',
    'button_primary_background_fill_hover': '*primary_800',
    'button_primary_background_fill_hover_dark': '*primary_800',
}


def main(args):
    program.start(args.device, seed=0)
    check(args)
    files = args.resume or in_the_box()
    models = page_models.load(files, args.config, args.use_ema, may_fail=not args.resume)
    resumes = {page_models.shown_name(file, files): file for file in files}
    found = [file for path in args.img_path for file in pictures.find(path)]

    with page_guard.prepare() as folder:
        page_guard.stay_local()
        examples = copied(found[:MOST_EXAMPLES], Path(folder))
        page = build(models, resumes, examples, args)
        serve(page, args.port)


def in_the_box():
    """The files of demo/weights, the one for photographs first."""
    files = [os.path.relpath(path) for path in DEMO.glob('weights/*.pd')]
    return sorted(files, reverse=True, key=lambda file: ('photographs' in file, file))


def check(args):
    """InputError for a folder or picture that is not there, before anything large is read."""
    if args.among and not args.among.is_dir():
        raise InputError(f'--among {args.among}: no such folder')
    for folder in args.output_dir:
        if not Path(folder).is_dir():
            raise InputError(f'--output_dir {folder}: no such folder')
    for path in args.img_path:
        if not pictures.find(path):
            raise InputError(f'--img_path {path}: no picture there')


def copied(files, folder):
    """Copies of pictures below a folder, from which gradio may hand them out."""
    copies = []
    for number, file in enumerate(files):
        place = folder / 'examples' / str(number)
        place.mkdir(parents=True)
        copies.append(shutil.copy(file, place))
    return [str(copy) for copy in copies]


def build(models, resumes, examples, args):
    """The page; gradio is imported here, because that takes seconds and heeds page_guard."""
    try:
        import gradio as gr
    except ImportError as error:
        raise InputError(
            f'{error}; bash requirements/install.sh .venv requirements.txt requirements/page.txt '
            'installs what the page needs'
        ) from None
    import page_text as text
    from page_masks import MasksTab
    from page_parts import Desk, choice_of, upload
    from page_tabs import others

    first = examples[len(examples) // 2]
    with gr.Blocks(title=text.TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(text.INTRO)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                picture = upload(first)
                choice_of(examples, picture)
            desk = Desk(picture)
            with gr.Column(scale=4, min_width=300), gr.Tabs():
                if models.painters:
                    MasksTab(models, resumes).build(desk)
                others(models, desk, args.among, args.output_dir)
    return page


def serve(page, port):
    """Serve the page to this machine until Ctrl-C."""
    import gradio as gr
    from starlette.middleware import Middleware

    page.queue(api_open=False)
    try:
        page.launch(
            server_name=page_guard.HOST,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size=MOST_BYTES,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Default().set(**CONTRASTS),
            css_paths=DEMO / 'page.css',
            app_kwargs={'middleware': [Middleware(page_guard.Guard)]},
        )
    except OSError:  # gradio's words are of its own variables and parameters
        taken = f'--port {port} is in use' if port else 'the ports from 7860 on are in use'
        raise InputError(f'{taken}; name a free one with --port') from None
    log.info(f'The page is at {page.local_url} (Ctrl-C ends it)')
    try:
        threading.Event().wait()
    finally:
        page.close()


def flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the page."""
    p.add_argument(
        '--resume',
        nargs='+',
        default=[],
        metavar='FILE',
        help='weights of any kind (default: all of demo/weights)',
    )
    p.add_argument(
        '--config',
        nargs='+',
        default=[],
        metavar='FILE',
        help='configs of segmentors and detectors (default: the one of seg/configs or det/configs '
        'that fits the weights)',
    )
    p.add_argument(
        '--img_path',
        nargs='+',
        default=EXAMPLES,
        metavar='PATH',
        help='pictures to choose from, or folders of them',
    )
    p.add_argument(
        '--among', type=Path, default=None, metavar='FOLDER', help='where neighbours are searched'
    )
    p.add_argument(
        '--output_dir',
        nargs='+',
        default=[],
        metavar='DIR',
        help='folders of runs, which may still train, to show their curves',
    )
    p.add_argument(
        '--port',
        type=cli.number(int, 1, 65536),
        default=None,
        help='(default: the first free one from 7860 on)',
    )


PARSER = cli.parser(__doc__, cli.device, cli.average, flags)

if __name__ == '__main__':
    program.run(main, PARSER)
