"""The stub's life: load the model, run its batches, finalize it. What it stands on is `_ferry_stub`."""

import importlib
import json
import os
import sys
import traceback

import _ferry_stub


class _ModelError(Exception):
    """Said to the server as it stands, without a traceback."""


def _describe(error):
    """`Type: message`, a blank line, `At:` and a line per frame, innermost first: the form that clients know."""
    lines = ["%s: %s" % (type(error).__name__, error), "", "At:"]
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(os.path.abspath(__file__))
    for frame in reversed(frames):
        if not os.path.abspath(frame.filename).startswith(ours):
            lines.append("  %s(%s): %s" % (frame.filename, frame.lineno, frame.name))
    if isinstance(error, SyntaxError):
        lines.append("  %s(%s)" % (error.filename, error.lineno))
    return "\n".join(lines) + "\n"


class _Stub:
    def __init__(self, instance):
        self.instance = instance
        self.module = None
        self.path = ""
        self.model = None
        self.decoupled = False
        self.loop = None

    # ------------------------------------------------------------------------------ life cycle
    def import_model(self, path):
        if self.module is not None:
            return
        if not os.path.exists(path):
            raise _ModelError("Python model file not found in '%s'" % path)
        self.path = path
        version_dir = os.path.dirname(path)
        for folder in (version_dir, os.path.dirname(version_dir)):
            sys.path.append(folder)
        import triton_python_backend_utils as pb_utils

        pb_utils._model_dir = version_dir
        stem = os.path.splitext(os.path.basename(path))[0]
        # As a member of the package that the version's folder is, so that relative imports work.
        self.module = importlib.import_module("%s.%s" % (os.path.basename(version_dir), stem))

    def model_class(self):
        try:
            return self.module.TritonPythonModel
        except AttributeError:
            raise _ModelError("'%s' has no class TritonPythonModel" % self.path) from None

    def auto_complete(self, path, config):
        self.import_model(path)
        import triton_python_backend_utils as pb_utils

        function = getattr(self.model_class(), "auto_complete_config", None)
        if function is None:
            return config
        name = json.loads(config).get("name", "")
        result = function(pb_utils.ModelConfig(config))
        if not isinstance(result, pb_utils.ModelConfig):
            raise _ModelError(
                "auto_complete_config function in model '%s' must return a valid pb.ModelConfig object." % name
            )
        return json.dumps(result._model_config)

    def load(self, path, args):
        self.import_model(path)
        arguments = json.loads(args)
        config = json.loads(arguments["model_config"])
        if _parameter(config, "TENSORFERRY_STRICT") == "1":
            _ferry_stub.be_strict()
        if _parameter(config, "TENSORFERRY_PIN") == "1":
            _ferry_stub.pin_memory()
        self.decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled", False))
        self.model = self.model_class()()
        if hasattr(self.model, "initialize"):
            self.model.initialize(arguments)
        return ""

    def finalize(self):
        _ferry_stub.restore_allocator()
        if self.model is not None and hasattr(self.model, "finalize"):
            self.model.finalize()
        self.model = None
        return ""

    # --------------------------------------------------------------------------------- batches
    def describe_failure(self, error):
        """What the clients of a batch read whose execute() raised `error`."""
        text = "Failed to process the request(s) for model '%s', message: %s" % (self.instance, _describe(error))
        error.__traceback__ = None  # its frames hold the requests
        return text

    def wait_for(self, coroutine):
        import asyncio

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        return self.loop.run_until_complete(coroutine)


def _parameter(config, name):
    return config.get("parameters", {}).get(name, {}).get("string_value", "")


def _attempt(what, function, *arguments):
    try:
        failed, text = False, function(*arguments)
    except _ModelError as error:
        failed, text = True, str(error)
    except Exception as error:
        failed, text = True, _describe(error)
    _ferry_stub.reply(what, failed, text)


def run(control):
    """Serves the server at the other end of `control` until it says Finalize."""
    try:
        version = ".".join(map(str, sys.version_info[:3]))
        executable = os.fsencode(sys.executable or "")
        stub = _Stub(_ferry_stub.open(control, sys.implementation.name, version, executable))
    except RuntimeError as error:
        sys.stderr.write("tensorferry: %s\n" % error)
        sys.exit(78)
    actions = {"auto_complete": stub.auto_complete, "load": stub.load}
    while True:
        command, first, second = _ferry_stub.serve(stub.model, stub.path, stub.describe_failure, stub.wait_for)
        if command == "finalize":
            _attempt("finalize", stub.finalize)
            return
        _attempt(command, actions[command], first, second)
