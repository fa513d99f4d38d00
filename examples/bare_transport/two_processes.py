"""Two Python processes that exchange tensors, without a server.

python two_processes.py [fork | spawn | forkserver]
"""

import multiprocessing
import sys

import numpy as np

from tensorferry.transport import Channel, TransportError


def worker(end: Channel) -> None:
    """Doubles what it is sent, in place, and sends it back, until the other end is gone."""
    while (tensors := end.recv()) is not None:
        for x in tensors.values():
            if isinstance(x, np.ndarray):
                x *= 2
            else:  # on a GPU: a framework would take it by DLPack and work on it there
                x.copy_from(x.numpy() * 2)
        end.send(tensors)


def main(method: str) -> None:
    here, there = Channel.pair()
    process = multiprocessing.get_context(method).Process(target=worker, args=(there,))
    process.start()
    there.close()  # the worker has its own

    x = here.empty((1024, 1024), np.float32)  # born in shared memory
    x[:] = 21
    here.send({"x": x})  # given: it moves, and is read-only here from now on
    answer = here.recv(timeout=60)
    print(f"{method}: moved there and back:", answer["x"][0, :3])

    mine = np.arange(4096)
    here.send({"mine": mine, "small": np.float32(0.5)})  # ordinary arrays are copied before send returns
    mine[:] = 0
    answer = here.recv(timeout=60)
    print(f"{method}: copied there, moved back:", answer["mine"][-3:], answer["small"])

    try:
        y = here.empty(1024, np.float32, device="cuda:0")  # both processes see this memory of the GPU
    except TransportError as error:
        print(f"{method}: without a GPU:", error)
    else:
        y.copy_from(np.full(1024, 4, np.float32))  # or anything on any stream: torch.from_dlpack(y).fill_(4)
        here.send({"y": y})
        answer = here.recv(timeout=60)
        print(f"{method}: moved on {answer['y'].device}:", answer["y"].numpy()[:3])

    here.close()  # ends the worker's loop
    process.join()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "spawn")
