"""Puts the extension that fits this interpreter in its own place.

The launcher imports it this way, and so does a process that multiprocessing spawned when it imports model.py: there nothing
of the stub runs, and the types of pb_utils are only types.
"""

import importlib.machinery
import importlib.util
import os
import sys
import sysconfig


def _file():
    payload = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    tagged = "_ferry_stub" + (sysconfig.get_config_var("EXT_SUFFIX") or "")
    free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
    # An abi3 extension would be found by a free-threaded interpreter, and die there with a SystemError.
    for name in [tagged] if free_threaded else [tagged, "_ferry_stub.abi3.so"]:
        path = os.path.join(payload, name)
        if os.path.exists(path):
            return path
    if free_threaded:
        raise ImportError("this is a free-threaded CPython, and the payload has no extension for it (%s)" % tagged)
    raise ImportError("the payload '%s' has no _ferry_stub.abi3.so: it is not installed completely" % payload)


def _load(path):
    loader = importlib.machinery.ExtensionFileLoader(__name__, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(__name__, path, loader=loader))
    sys.modules[__name__] = module
    loader.exec_module(module)


_load(_file())
