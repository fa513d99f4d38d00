"""What the model's interpreter starts: `python launch.py <control socket's descriptor>`.

Imports nothing of the `tensorferry` package: this folder is all that a model's environment needs. Runs once; a process that
multiprocessing spawns imports this file under another name and finds nothing to do.
"""

import sys


def _refuse(why):
    sys.stderr.write("tensorferry: %s\n" % why)
    sys.stderr.flush()
    sys.exit(78)


def _main():
    if sys.version_info < (3, 8):
        _refuse("this is Python %s, and a stub needs CPython 3.8 or later" % sys.version.split()[0])
    if sys.implementation.name != "cpython":
        _refuse("this is %s, and a stub needs CPython" % sys.implementation.name)

    import faulthandler
    import os
    import signal

    payload = os.path.dirname(os.path.abspath(__file__))
    control = int(sys.argv[1])
    _leave_signals_to_the_server(signal, os)
    faulthandler.enable()
    # Sent by the server when execute() runs too long.
    faulthandler.register(signal.SIGRTMAX - 2, all_threads=True, chain=False)
    sys.stdout.reconfigure(line_buffering=True)

    sys.argv[:] = [""]
    sys.path[0] = ""
    sys.path.insert(1, os.path.join(payload, "compat"))
    try:
        import _ferry_stub  # noqa: F401
    except ImportError as error:
        _refuse(error)
    _load_file("_ferry_runner", os.path.join(payload, "runner.py")).run(control)


def _leave_signals_to_the_server(signal, os):
    """A terminal's Ctrl-C and a TERM to the group are the server's business: it drains first, then says Finalize.

    A handler and not SIG_IGN, which children would inherit through exec too: multiprocessing ends its workers by SIGTERM.
    What comes for a forked child before it has the usual handlers waits until it has them.
    """
    from _thread import get_ident

    def ignore(number, frame):
        pass

    defaults = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}

    masks = {}  # of the threads that fork just now

    def block():
        masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, defaults)

    def unblock():
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(get_ident()))

    def in_a_forked_child():
        for number, default in defaults.items():
            if signal.getsignal(number) is ignore:
                signal.signal(number, default)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=in_a_forked_child)


def _load_file(name, path):
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    _main()
