"""Optimizer state spread over the ranks: ZeRO stage 1 (arXiv:1910.02054).

Every rank has all weights and all gradients, but keeps the optimizer's state of its own parameters
alone and updates only those. Then each rank sends its new weights to the others. A parameter is
never split, so each update is the one of an unsharded run, bit by bit; LARS needs the norm of a
whole tensor anyway. The largest shares differ by at most one tensor.

Paddle's own version (group_sharded_parallel) runs on GPUs only.
"""

import paddle

from util import dist, optim
from util.assign import optimizer_state

BUCKET = 2**22  # values that a rank sends at a time: 16 MB of float32


def shares(sizes: list[int], count: int) -> list[int]:
    """The owner of each of some parameters of these sizes, so that `count` owners have equal parts.

    The largest come first; each goes to the owner who has least.
    """
    totals = [0] * count
    owners = [0] * len(sizes)
    for number in _from_large_to_small(sizes):
        owner = totals.index(min(totals))
        owners[number] = owner
        totals[owner] += sizes[number]
    return owners


def buckets(sizes: list[int], largest: int = BUCKET) -> list[list[int]]:
    """The numbers of parameters of these sizes, from large to small, in parts that fit `largest`.

    A parameter that is larger is a part of its own.
    """
    parts = []
    room = 0
    for number in _from_large_to_small(sizes):
        if sizes[number] > room or not parts:
            parts.append([])
            room = largest
        parts[-1].append(number)
        room -= sizes[number]
    return parts


def _from_large_to_small(sizes: list[int]) -> list[int]:
    """The numbers of these sizes; equal ones stay in order."""
    return sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)


class Sharding:
    """The parameters of an optimizer, each of them owned by one rank.

    With one process all are its own, and nothing is communicated.
    """

    def __init__(self, optimizer: paddle.optimizer.Optimizer):
        self.optimizer = optimizer
        parameters = [tensor for tensor in optim.parameters(optimizer) if not tensor.stop_gradient]
        owners = shares([tensor.size for tensor in parameters], dist.world_size())
        self.owned_by = [[] for _ in range(dist.world_size())]  # the parameters of each rank
        for parameter, owner in zip(parameters, owners):
            self.owned_by[owner].append(parameter)
        self._own_names = {tensor.name for tensor in self.owned_by[dist.rank()]}
        self._parts = []  # of each rank, the buckets that it sends
        for owned in self.owned_by:
            parts = buckets([tensor.size for tensor in owned])
            self._parts.append([[owned[number] for number in part] for part in parts])

        if isinstance(optimizer, optim.Lars):  # AdamW makes its state in the first step
            optimizer.keep(self._own_names)

    def owns(self, parameter: paddle.Tensor) -> bool:
        """Whether this rank updates a parameter."""
        return parameter.name in self._own_names

    def drop_other_gradients(self) -> None:
        """Remove the gradients of the other ranks' parameters, so that a step leaves these out."""
        for owned in self.owned_by:
            for parameter in owned:
                if not self.owns(parameter):
                    parameter.grad = None  # clear_gradient() would leave zeros

    @paddle.no_grad()
    def exchange(self) -> None:
        """Give every rank the weights that their owners have updated."""
        if dist.world_size() == 1:
            return
        rounds = max(len(parts) for parts in self._parts)
        for number in range(rounds):
            sent = [parts[number] if number < len(parts) else [] for parts in self._parts]
            _exchange(sent)

    def gather(self, model: paddle.nn.Layer) -> dict[str, dict]:
        """The whole state of the optimizer on the main process, as `assign.optimizer_state`.

        All ranks must call this; the others get their own part.
        """
        state = optimizer_state(model, self.optimizer)
        shapes = {}
        for name, kinds in state.items():
            if kinds:
                shapes[name] = {kind: list(array.shape) for kind, array in kinds.items()}

        for rank, theirs in enumerate(dist.gather(shapes)):
            if rank == 0:
                continue
            for name, kinds in theirs.items():
                for kind, shape in kinds.items():
                    # no messages between two ranks: on GPUs each pair would need its own connection
                    array = state[name].get(kind) if rank == dist.rank() else None
                    received = dist.broadcast(array, shape, source=rank)
                    if dist.is_main():
                        state[name][kind] = received
        return state


def _exchange(sent: list[list[paddle.Tensor]]) -> None:
    """Every rank sends the parameters sent[rank] and receives the others, all at once."""
    lengths = [sum(parameter.size for parameter in owned) for owned in sent]
    own = [parameter.flatten() for parameter in sent[dist.rank()]]
    missing = max(lengths) - lengths[dist.rank()]
    if missing or not own:
        own.append(paddle.zeros([missing]))

    for rank, values in enumerate(dist.all_gather(paddle.concat(own))):
        if rank == dist.rank():
            continue
        start = 0
        for parameter in sent[rank]:
            part = values[start : start + parameter.size]
            parameter.set_value(part.reshape(parameter.shape))
            start += parameter.size
