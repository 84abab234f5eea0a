"""Keeps the page on this machine: no request to other hosts, no file but its own, no other route.

gradio can share an app, count its users, fetch pictures by their address and hand other requests
on. `prepare` turns off what a setting turns off, before gradio is imported; the rest is refused, in
the process by `stay_local` and on the network by `Guard`.
"""

import os
import re
import sys
import tempfile
import warnings

from util.errors import InputError

HOST = '127.0.0.1'
LOCAL = (HOST, 'localhost', '::1')
SETTINGS = {
    'GRADIO_ANALYTICS_ENABLED': 'False',
    'HF_HUB_OFFLINE': '1',
    'HF_HUB_DISABLE_TELEMETRY': '1',
    'NO_PROXY': '*',  # gradio asks itself whether it runs
}
# audit event -> the place of the address, or of the name of a host, among its arguments
ADDRESSES = {
    'socket.connect': 1,
    'socket.sendto': 1,
    'socket.getaddrinfo': 0,
    'socket.gethostbyname': 0,
    'socket.gethostbyaddr': 0,
}
# All that the page asks for
ROUTES = re.compile(
    r'/'
    r'|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)'
    r'|/(assets|static|svelte)/.+'
    r'|/gradio_api/(startup-events|theme\.css|app_id|info|reset|cancel|upload|upload_progress)/?'
    r'|/gradio_api/(queue/(join|data)|heartbeat/\w+)'
    r'|/gradio_api/file=/.+'
)


def prepare() -> tempfile.TemporaryDirectory:
    """Set what gradio reads when it is imported; returns a folder for all files of this page.

    The user's own settings of gradio, which might share the page, have no effect.
    """
    for name in list(os.environ):
        if name.startswith('GRADIO_'):
            del os.environ[name]
    folder = tempfile.TemporaryDirectory(prefix='mae_page_')
    os.environ |= {**SETTINGS, 'GRADIO_TEMP_DIR': folder.name}
    tempfile.tempdir = folder.name
    # gradio uses what its libraries warn of, pandas 3 of an option that it no longer needs
    warnings.filterwarnings('ignore', module='gradio')
    warnings.filterwarnings('ignore', message='.future.no_silent_downcasting')
    return folder


def stay_local() -> None:
    """From now on this process fails with an InputError where it would ask another machine."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple) -> None:
    if event not in ADDRESSES:
        return
    address = arguments[ADDRESSES[event]]
    host = address[0] if isinstance(address, tuple) else address
    # the address of a socket within the machine is a path, or a tuple of numbers
    if isinstance(address, tuple) or event.startswith('socket.get'):
        check_host(host)


def check_host(host) -> None:
    """InputError for the name or address of a host that is not this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and name not in LOCAL:
        raise InputError(f'the page asks no other host, and {name} is one')


class Guard:
    """Answers 404 to requests for anything but ROUTES, and to those for another host's name.

    The second keeps a foreign site out whose name leads to this machine. app: what answers the
    rest, by the protocol ASGI.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope['type'] == 'http' and not is_allowed(scope):
            start = {'type': 'http.response.start', 'status': 404, 'headers': []}
            await send(start)
            await send({'type': 'http.response.body', 'body': b'not on this page'})
            return
        await self.app(scope, receive, send)


def is_allowed(scope: dict) -> bool:
    """Whether a request, as ASGI describes it, is one for a part of the page on this machine."""
    headers = dict(scope['headers'])
    host = headers.get(b'host', b'').decode('latin-1')
    is_own = host.rpartition(':')[0] in LOCAL or host in LOCAL
    return is_own and ROUTES.fullmatch(scope['path']) is not None
