"""Weights by their address, from a server in this process."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import main_finetune
import main_pretrain
import models_zoo
from util import download, weights
from util.errors import InputError

BYTES = np.random.default_rng(0).bytes(3 * 2**20 + 17)
DIGEST = hashlib.sha256(BYTES).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; breaks off after half of an answer `server.breaks` times."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        asked = self.headers.get('Range')
        self.server.asked.append(asked)
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        begun = 0
        if asked and self.headers.get('If-Range') == tag:
            begun = int(re.fullmatch(r'bytes=(\d+)-', asked)[1])
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {begun}-{len(content) - 1}/{len(content)}')
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(content) - begun))
        self.send_header('ETag', tag)
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            content = content[: (begun + len(content)) // 2]
        self.wfile.write(content[begun:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(download, 'PAUSE', 0.01)
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.files, server.asked, server.breaks = {}, [], 0
        server.address = f'http://127.0.0.1:{server.server_port}'
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_downloaded_once(server, tmp_path, capsys):
    server.files[name := f'/a/model-{DIGEST[:8]}.pth'] = BYTES
    first, second = (download.local(server.address + name) for _ in range(2))
    assert first == second and first.read_bytes() == BYTES and len(server.asked) == 1
    assert first.is_relative_to(tmp_path / 'cache/mae') and first.name == name.rpartition('/')[2]
    assert capsys.readouterr().out == f'downloading {server.address}{name} to {first}\n'
    assert sorted(file.name for file in first.parent.iterdir()) == ['lock', first.name]
    assert download.local('a/path.pth') == 'a/path.pth'


def test_equal_names_of_two_addresses_are_two_files(server):
    server.files |= {'/a/x.pth': b'one', '/b/x.pth': b'two'}
    files = [download.local(f'{server.address}/{folder}/x.pth') for folder in 'ab']
    assert [file.read_bytes() for file in files] == [b'one', b'two']


def test_a_broken_download_goes_on_where_it_was(server, capsys):
    server.files[name := f'/model-{DIGEST}.pth'] = BYTES
    server.breaks = 1
    assert download.local(server.address + name).read_bytes() == BYTES
    assert server.asked == [None, f'bytes={len(BYTES) // 2}-']
    assert 'trying again' in capsys.readouterr().err


def test_the_next_run_goes_on_unless_the_file_has_changed(server, monkeypatch):
    monkeypatch.setattr(download, 'TRIES', 1)
    server.files['/x.pth'] = BYTES
    for change in (b'', b'changed'):
        server.breaks = 1
        address = f'{server.address}/x.pth?{len(change)}'
        server.files[f'/x.pth?{len(change)}'] = BYTES
        with pytest.raises(InputError, match='failed 1 times.* the next run continues from there'):
            download.local(address)
        server.files[f'/x.pth?{len(change)}'] = BYTES + change
        assert download.local(address).read_bytes() == BYTES + change
        assert server.asked[-1] == f'bytes={len(BYTES) // 2}-'


def test_a_wrong_hash_is_refused_and_nothing_is_kept(server):
    server.files['/model-0123abcd.pth'] = BYTES
    message = f'its SHA-256 begins with {DIGEST[:8]}, and its name says 0123abcd'
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            download.local(f'{server.address}/model-0123abcd.pth')
    assert server.asked == [None, None]


def test_a_server_that_does_not_answer_is_one_line(server):
    with pytest.raises(InputError, match='missing.pth: the server answers 404 Not Found'):
        download.local(f'{server.address}/missing.pth')
    with pytest.raises(InputError, match='the download failed 5 times, at last with: .*refused'):
        download.local('http://127.0.0.1:1/x.pth')
    with pytest.raises(InputError, match='names no file'):
        download.local(server.address)


def test_programs_take_addresses(server, encoder, classify, digits, tmp_path):
    server.files['/encoder.pd'] = encoder.read_bytes()
    address = f'{server.address}/encoder.pd'
    by_file, by_address = (
        classify(main_finetune, '--finetune', file, '--epochs', 1)[0] for file in (encoder, address)
    )
    assert by_file == by_address
    model = models_zoo.autoencoder('mae_vit_nano_patch4', img_size=16, in_chans=1)
    assert not models_zoo.start_from(model, address).fresh

    flags = '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --num_workers 0 --device cpu '
    flags += f'--log_dir= --batch_size 10 --epochs 2 --warmup_epochs 0 --data_path {digits} '
    flags += f'--output_dir {tmp_path}/out --resume {address}'
    main_pretrain.main(main_pretrain.PARSER.parse_args(flags.split()))
    assert weights.read(tmp_path / 'out/checkpoint-1.pd')['epoch'] == 1
    assert len(server.asked) == 1
