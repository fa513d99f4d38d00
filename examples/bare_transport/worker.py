"""Doubles what it is sent and sends it back. Memory is changed in place and never leaves its place."""

import sys

import numpy as np

from tensorferry.transport import Channel


def double(x):
    if isinstance(x, np.ndarray):
        x *= 2
    else:  # on a GPU: a framework would take it by DLPack and work on it there
        x.copy_from(x.numpy() * 2)


end = Channel(int(sys.argv[1]), first=False)
while (tensors := end.recv()) is not None:
    for tensor in tensors.values():
        double(tensor)
    end.send(tensors)
