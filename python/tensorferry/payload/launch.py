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
    # A terminal's Ctrl-C and a TERM to the group are the server's business: it drains first, then says Finalize.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    # Sent by the server when execute() runs too long.
    faulthandler.register(signal.SIGRTMAX - 2, all_threads=True, chain=False)
    sys.stdout.reconfigure(line_buffering=True)

    sys.argv[:] = [""]
    sys.path[0] = ""
    sys.path.insert(1, os.path.join(payload, "compat"))
    extension = _load_extension(payload)
    sys.modules["_ferry_stub"] = extension
    runner = _load_file("_ferry_runner", os.path.join(payload, "runner.py"))
    runner.run(control)


def _load_extension(payload):
    import importlib.machinery
    import os
    import sysconfig

    tagged = "_ferry_stub" + (sysconfig.get_config_var("EXT_SUFFIX") or "")
    names = [tagged, "_ferry_stub.abi3.so"]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        names = [tagged]  # an abi3 extension would be found there, and die with a SystemError
    for name in names:
        path = os.path.join(payload, name)
        if os.path.exists(path):
            return _load_file("_ferry_stub", path, importlib.machinery.ExtensionFileLoader)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        _refuse("this is a free-threaded CPython, and the payload has no extension for it (%s)" % tagged)
    return _refuse("the payload '%s' has no _ferry_stub.abi3.so: it is not installed completely" % payload)


def _load_file(name, path, loader_type=None):
    import importlib.machinery
    import importlib.util

    loader = (loader_type or importlib.machinery.SourceFileLoader)(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    _main()
