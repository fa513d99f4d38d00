"""Doubles what it is sent, in place, and sends it back: the arrays never leave shared memory."""

import sys

from tensorferry.transport import Channel

end = Channel(int(sys.argv[1]), first=False)
while (tensors := end.recv()) is not None:
    for array in tensors.values():
        array *= 2
    end.send(tensors)
