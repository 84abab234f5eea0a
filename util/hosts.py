"""Addresses of this machine and of others, for a training on several machines.

Paddle's CPU backend (gloo) offers the others the address of this machine's own name, which may not
resolve, or to 127.0.1.1. NCCL takes the first interface that it finds, which may be a container's.
So both are told the network interface of the address that the launcher uses.
"""

import fcntl
import os
import socket
import struct

from util.errors import InputError

SIOCGIFADDR = 0x8915  # of <linux/sockios.h>: the address of an interface
ADDRESS = slice(20, 24)  # its place in the answer
LOOPBACK = ('127.0.0.1', 'localhost')


def resolve(name: str, flag: str) -> str:
    """The IPv4 address of a name or address; InputError, which names the flag, if there is none."""
    try:
        return socket.gethostbyname(name)
    except OSError:
        raise InputError(
            f'{flag} {name}: {socket.gethostname()} cannot resolve this name; give an address, or '
            'add the name to /etc/hosts'
        ) from None


def addresses() -> dict[str, str]:
    """The IPv4 address of each network interface of this machine that has one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            request = struct.pack('256s', interface.encode())
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            found[interface] = socket.inet_ntoa(answer[ADDRESS])
    return found


def address_towards(other: str) -> str:
    """The address of this machine from which it reaches another one; InputError without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))  # sends nothing
        except OSError as error:
            name = socket.gethostname()
            raise InputError(f'{name} has no route to {other} ({error.strerror})') from None
        return probe.getsockname()[0]


def is_loopback(address: str) -> bool:
    """Whether an address means this machine, whoever uses it."""
    return address.startswith('127.')


def require_own(address: str, flag: str) -> None:
    """InputError, which names the flag, if an address is none of this machine."""
    own = addresses()
    if is_loopback(address) or address in own.values():
        return
    names = [f'{value} ({interface})' for interface, value in own.items() if interface != 'lo']
    raise InputError(
        f'{flag} {address} is not an address of {socket.gethostname()}, which has '
        f'{", ".join(names) or "none"}'
    )


def endpoints() -> list[str]:
    """The hosts of all processes that the launcher started, in the order of the ranks."""
    listed = os.environ.get('PADDLE_TRAINER_ENDPOINTS', '')
    return [endpoint.rpartition(':')[0] for endpoint in listed.split(',') if endpoint]


def machines() -> int:
    """The number of machines, or rather of launchers, that train together."""
    return int(os.environ.get('PADDLE_NNODES', 1))


def prepare() -> None:
    """Check the address that the launcher gave to this process, and make gloo and NCCL use it.

    InputError if the others cannot reach it.
    """
    hosts = endpoints()
    if machines() == 1 or not hosts:
        return
    own = os.environ['PADDLE_CURRENT_ENDPOINT'].rpartition(':')[0]
    remote = [host for host in hosts if not is_loopback(host)]
    if is_loopback(own) and remote:
        likely = address_towards(remote[0])
        raise InputError(
            f'the other machines cannot reach {socket.gethostname()} at {own}, to which its name '
            f'resolves; give its launcher --host {likely}'
        )
    require_own(own, '--host')
    for interface, address in addresses().items():
        if address == own:
            os.environ.setdefault('GLOO_SOCKET_IFNAME', interface)
            os.environ.setdefault('NCCL_SOCKET_IFNAME', f'={interface}')  # this name alone
