"""Stand-ins for random and numpy.random that note their draws in a Generator's terms."""

import random

import numpy as np


class Draws(list):
    def note(self, kind, value):
        self.append([kind, np.asarray(value).tolist()])
        return value


class Random:
    """The functions of the module random that timm uses."""

    def __init__(self, draws):
        self.draws = draws

    def random(self):
        return self.draws.note('random', random.random())

    def uniform(self, low, high):
        return self.draws.note('uniform', random.uniform(low, high))

    def gauss(self, mean, std):
        return self.draws.note('normal', random.gauss(mean, std))

    def randint(self, low, high):
        return self.draws.note('integers', random.randint(low, high))

    def choice(self, items):
        return items[self.draws.note('integers', random.randrange(len(items)))]


class NumpyRandom:
    """The functions of numpy.random that timm uses."""

    def __init__(self, draws):
        self.draws = draws

    def rand(self, *shape):
        return self.draws.note('random', np.random.rand(*shape))

    def beta(self, a, b, size=None):
        return self.draws.note('beta', np.random.beta(a, b, size))

    def dirichlet(self, alpha):
        return self.draws.note('dirichlet', np.random.dirichlet(alpha))

    def randint(self, low, high, size=None):
        return self.draws.note('integers', np.random.randint(low, high, size))

    def choice(self, items, count, replace, p=None):
        return [
            items[i]
            for i in self.draws.note('choice', np.random.choice(len(items), count, replace, p))
        ]


class Numpy:
    """The module numpy with another numpy.random."""

    def __init__(self, draws):
        self.random = NumpyRandom(draws)

    def __getattr__(self, name):
        return getattr(np, name)
