"""demo/page.py in Chromium: a person's way through it, its pixels, its requests, its refusals."""

import io
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from demo import visualize

pytest.importorskip('gradio', reason='requirements/page.txt is not installed')
webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason='apt-get install chromium chromium-driver'
    ),
]
PATIENCE = 120  # seconds, of which a busy machine may need many
DIGITS = ROOT / 'demo/weights/mae_vit_nano_patch4_digits.pd'
THREE = ROOT / 'demo/three.png'
PANELS = ('original', 'masked', 'reconstruction', 'both')
REMOVE = '#picture button[aria-label="Remove Image"]'
# The tabs of the page -> a text that each shows when it is done
TABS = {
    'Reconstruct': 'of the pixels removed',
    'Classify': '3',
    'Features': '1st, red',
    'Attention': 'largest',
    'Training': 'epoch 1, loss 2.0000',
}
FLAGS = (
    '--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-proxy-server '
    '--disable-background-networking --window-size=1280,1200 '
    '--use-fake-device-for-media-stream --use-fake-ui-for-media-stream'
).split()
# The texts of the page with less than this contrast to what is behind them, as WCAG 2 defines it
CONTRAST = 4.5
FAINT = """
const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function light(colours) {  // relative luminance of colours that lie one above the other
  for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
  const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const found = [];
for (const part of document.querySelectorAll('body *')) {
  const own = [...part.childNodes].filter(node => node.nodeType == Node.TEXT_NODE);
  const text = own.map(node => node.data).join('').trim();
  if (!/[a-z0-9]/i.test(text) || ['STYLE', 'SCRIPT'].includes(part.tagName)) continue;
  if (!part.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  const behind = [];
  for (let one = part; one; one = one.parentElement)
    behind.unshift(getComputedStyle(one).backgroundColor);
  behind.unshift('white');
  const style = getComputedStyle(part);
  const colour = part instanceof SVGElement ? style.fill : style.color;
  const [dim, bright] = [light(behind), light([...behind, colour])].sort((a, b) => a - b);
  const contrast = (bright + 0.05) / (dim + 0.05);
  if (contrast < arguments[0]) found.push(`${text}: ${contrast.toFixed(2)}`);
}
return found;
"""


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """The address of the page, served as a user serves it."""
    folder = tmp_path_factory.mktemp('run')
    (folder / 'log.txt').write_text('{"epoch": 0, "train_loss": 2}\n')
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    files = [DIGITS, ROOT / 'demo/weights/digits.pd']
    options = ['--device', 'cpu', '--port', port, '--output_dir', folder, '--img_path', THREE]
    command = [sys.executable, 'demo/page.py', *options, '--resume', *files, '--among']
    command += [ROOT / 'demo/photographs']
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if 'The page is at' in line:
            break
    else:
        pytest.fail(''.join(lines))
    yield f'http://127.0.0.1:{port}'
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[0]
    assert 'page.py: interrupted\n' in said, said


@pytest.fixture(scope='module')
def browser(server, tmp_path_factory):
    """Chromium, with the page open."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    film = tmp_path_factory.mktemp('film') / 'frames.mjpeg'
    film.write_bytes(3 * frame())
    for flag in [*FLAGS, f'--use-file-for-fake-video-capture={film}']:
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    downloads = tmp_path_factory.mktemp('downloads')
    options.add_experimental_option('prefs', {'download.default_directory': str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.downloads = downloads
    driver.get(server)
    command_with(driver, 'three.png')  # the first example is shown
    yield driver
    driver.quit()


def frame():
    """What the camera sees, as JPEG: bright on the left, dark on the right."""
    pixels = np.full([480, 640, 3], 20, 'uint8')
    pixels[:, :320] = 220
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'jpeg')
    return buffer.getvalue()


def until(condition):
    """The first true value of a condition."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except (WebDriverException, OSError, HTTPException):
            pass  # the page changes, or gradio writes the same picture again
        time.sleep(0.1)
    pytest.fail('the page did not get there')


def element(browser, selector):
    return until(lambda: browser.find_elements(By.CSS_SELECTOR, selector))[0]


def command_with(browser, words):
    """The command on the page, as soon as it has these words."""

    def found():
        text = element(browser, '#command textarea').get_property('value')
        return text if words in text else None

    return until(found)


def fetched(url):
    """The answer to a request that does not go through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE) as answer:
        return answer.read()


def shown(browser, name):
    """The picture in a panel, uint8 [height, width, 3]."""
    url = element(browser, f'#{name} img').get_property('src')
    return np.asarray(Image.open(io.BytesIO(fetched(url))).convert('RGB'))


def saved(browser):
    """The picture that the button saves at this moment."""
    element(browser, '#save').click()
    files = until(lambda: list(browser.downloads.glob('panels*.png')))
    until(lambda: not list(browser.downloads.glob('*.crdownload')) and files[0].stat().st_size)
    pixels = np.asarray(Image.open(files[0]))
    files[0].unlink()
    return pixels


def sheet_of(command, folder, picture):
    """What a command of the page writes, with the picture that it names."""
    words = shlex.split(command)[2:]
    out = folder / 'panels.png'
    flags = [*words, '--img_path', str(picture), '--out', str(out)]
    visualize.main(visualize.PARSER.parse_args(flags))
    return np.asarray(Image.open(out).convert('RGB'))


def check_pixels(browser, command, folder, picture=THREE):
    """All panels, and the picture to save, are those of demo/visualize.py."""
    sheet = sheet_of(command, folder, picture)
    for number, name in enumerate(PANELS):
        left = 4 + number * 132  # panels of 32 pixels are enlarged to 128
        expected = sheet[22 : 22 + 128 : 4, left : left + 128 : 4]
        enlarged = expected.repeat(10, 0).repeat(10, 1)
        # the browser loads pictures one by one
        until(lambda name=name, right=enlarged: np.array_equal(shown(browser, name), right))
    until(lambda: np.array_equal(saved(browser), sheet))


def upload(browser, file):
    """Take the picture away that is there, if any, and at once upload another one."""
    for button in browser.find_elements(By.CSS_SELECTOR, REMOVE):
        button.click()
    element(browser, '#picture input[type=file]').send_keys(str(file))


def open_tab(browser, name):
    """Open a tab and wait for what it shows."""

    def found():
        tabs = browser.find_elements(By.CSS_SELECTOR, 'button[role=tab]')
        return [tab for tab in tabs if tab.text == name]

    until(found)[0].click()
    until(lambda: TABS[name] in element(browser, 'body').text)


def test_a_mask_of_another_ratio_and_clicked_patches_have_the_pixels_of_the_program(
    browser, tmp_path
):
    file = tmp_path / 'mine.png'
    file.write_bytes(THREE.read_bytes())
    upload(browser, file)
    command = command_with(browser, 'mine.png')
    check_pixels(browser, command, tmp_path)

    slider = element(browser, '#ratio input[type=range]')
    slider.send_keys(Keys.ARROW_LEFT * 25)
    check_pixels(browser, command_with(browser, '--mask_ratio 0.5 '), tmp_path)

    before = element(browser, '#visible textarea, #visible input').get_property('value')
    masked = element(browser, '#masked img')
    side = masked.size['width'] / 8
    place = (round(-3.5 * side), round(-2.5 * side))  # of patch 8, from the middle
    ActionChains(browser).move_to_element_with_offset(masked, *place).click().perform()
    command = command_with(browser, '--visible')
    visible = {int(number) for number in re.search(r'--visible (\S+)', command)[1].split(',')}
    assert visible ^ {*map(int, before.split(','))} == {8}
    check_pixels(browser, command, tmp_path)


def test_the_keyboard_chooses_patches(browser, tmp_path):
    field = element(browser, '#visible textarea, #visible input')
    field.send_keys(Keys.CONTROL + 'a')
    field.send_keys('0,9,18,27' + Keys.ENTER)
    check_pixels(browser, command_with(browser, '--visible 0,9,18,27 '), tmp_path)


def test_a_broken_picture_is_a_message(browser, tmp_path):
    (tmp_path / 'broken.png').write_bytes(THREE.read_bytes()[:60])
    upload(browser, tmp_path / 'broken.png')
    toast = element(browser, '.toast-body')
    until(lambda: 'broken.png cannot be read as a picture' in toast.text)
    assert '/tmp' not in toast.text and 'Traceback' not in toast.text
    upload(browser, THREE)  # the page goes on
    command_with(browser, 'three.png')


def test_all_tabs_fit_a_telephone(browser):
    size = {'width': 390, 'height': 800, 'deviceScaleFactor': 1, 'mobile': True}
    names = [tab.text for tab in browser.find_elements(By.CSS_SELECTOR, 'button[role=tab]')]
    assert [name for name in names if name] == list(TABS)
    for name in TABS:
        open_tab(browser, name)
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        time.sleep(0.5)
        assert browser.execute_script('return document.documentElement.scrollWidth') <= 390
        browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


@pytest.mark.parametrize('scheme', ['dark', 'light'])
def test_all_texts_stand_out_from_their_ground(browser, server, scheme):
    preferred = [{'name': 'prefers-color-scheme', 'value': scheme}]
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': preferred})
    browser.get(server)
    command_with(browser, 'three.png')
    is_dark = browser.execute_script("return document.body.classList.contains('dark')")
    assert is_dark == (scheme == 'dark')
    for name in TABS:
        open_tab(browser, name)
        until(lambda: not browser.execute_script(FAINT, CONTRAST))


def test_a_picture_of_the_camera_is_not_mirrored(browser, tmp_path):
    open_tab(browser, 'Reconstruct')
    element(browser, '#picture button[aria-label="Capture from camera"]').click()
    for selector in ('#picture .wrap button', '#picture button[aria-label="capture photo"]'):
        element(browser, selector).click()
    command = command_with(browser, 'image.png')
    pixels = shown(browser, 'original').mean(-1)
    assert pixels[:, :140].min() > 180 and pixels[:, 180:].max() < 60

    taken = tmp_path / 'image.png'
    address = element(browser, '#picture img').get_property('src')
    taken.write_bytes(fetched(address))
    check_pixels(browser, command, tmp_path, taken)


def test_the_page_asks_this_machine_alone(browser, server):
    hosts = set()
    for line in browser.get_log('performance'):
        message = json.loads(line['message'])['message']
        if message['method'] == 'Network.requestWillBeSent':
            hosts.add(message['params']['request']['url'].split(',')[0].rpartition('/')[0])
    foreign = {host for host in hosts if not host.startswith((server, 'data:', 'blob:'))}
    assert len(hosts) > 3 and not foreign


@pytest.mark.parametrize(
    'path',
    [
        'gradio_api/file=/etc/passwd',
        f'gradio_api/file={ROOT}/README.md',
        'gradio_api/file=README.md',
        'file=/etc/passwd',
        'gradio_api/file/etc/passwd',
        'gradio_api/file=https://example.com/',
        'gradio_api/proxy=https://example.com/',
        'static/..%2f..%2f..%2froutes.py',
        'assets/%2fetc%2fpasswd',
    ],
)
def test_no_file_of_the_machine_can_be_read(server, path):
    with pytest.raises(urllib.error.HTTPError) as error:
        fetched(f'{server}/{path}')
    error.value.close()
    assert error.value.code in (403, 404)


@pytest.mark.parametrize('path', ['/etc/passwd', 'https://example.com/x.png', str(THREE)])
def test_no_file_of_the_machine_can_be_named_as_a_picture(server, path):
    """A program that talks to the page as a browser does, with a file that was not uploaded."""
    config = json.loads(fetched(f'{server}/config'))
    picture = next(
        part for part in config['components'] if part['props'].get('elem_id') == 'picture'
    )
    number, dependency = next(
        (number, one)
        for number, one in enumerate(config['dependencies'])
        if one['inputs'][:1] == [picture['id']] and len(one['outputs']) > 5
    )
    file = {'path': path, 'meta': {'_type': 'gradio.FileData'}}
    kinds = {part['id']: part['props'].get('value') for part in config['components']}
    data = [file, *(kinds.get(part) for part in dependency['inputs'][1:])]
    body = {'data': data, 'fn_index': dependency.get('id', number), 'session_hash': 'x1'}
    request = urllib.request.Request(
        f'{server}/gradio_api/queue/join',
        json.dumps(body).encode(),
        {'Content-Type': 'application/json'},
    )
    fetched(request)
    answer = fetched(f'{server}/gradio_api/queue/data?session_hash=x1').decode()
    assert '"success":false' in answer and 'panels.png' not in answer and 'root:' not in answer


def test_files_that_are_too_large_are_refused(server):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body += bytes(21 * 2**20) + b'\r\n--x--\r\n'
    request = urllib.request.Request(
        f'{server}/gradio_api/upload',
        body,
        {'Content-Type': 'multipart/form-data; boundary=x'},
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        fetched(request)
    error.value.close()
    assert error.value.code == 413
