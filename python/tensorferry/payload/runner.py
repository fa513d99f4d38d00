"""The stub's life: load the model, run its batches, finalize it. What it stands on is `_ferry_stub`."""

import importlib
import json
import os
import sys
import time
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

        pb_utils.get_model_dir = lambda: version_dir
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
        self.decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled", False))
        self.model = self.model_class()()
        if hasattr(self.model, "initialize"):
            self.model.initialize(arguments)
        return ""

    def finalize(self):
        if self.model is not None and hasattr(self.model, "finalize"):
            self.model.finalize()
        self.model = None
        return ""

    # --------------------------------------------------------------------------------- batches
    def execute(self, batch, raw):
        import c_python_backend_utils as c_utils

        numbers = [request[0] for request in raw]
        wanted = [frozenset(request[6]) for request in raw]
        requests = [c_utils.InferenceRequest._from_wire(request) for request in raw]
        del raw[:]
        begin = time.perf_counter_ns()
        previous = _ferry_stub.install_allocator()
        try:
            answers = self.answers(requests, len(numbers))
            plan = [c_utils._to_wire(*each) for each in zip(numbers, answers, wanted)]
            capsule = _ferry_stub.plan([entry[:4] for entry in plan])
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            text = "Failed to process the request(s) for model '%s', message: %s" % (self.instance, _describe(error))
            error.__traceback__ = None
            plan, answers = [], None
            capsule = _ferry_stub.plan([(number, text, 1, []) for number in numbers])
        finally:
            _ferry_stub.restore_allocator(previous)
        execute_ns = time.perf_counter_ns() - begin
        # From here on nobody but the model may hold what it returned: only then can it be said what may move.
        del requests, answers, plan
        _ferry_stub.send(capsule, batch, execute_ns)

    def answers(self, requests, count):
        import c_python_backend_utils as c_utils

        if not hasattr(self.model, "execute"):
            raise c_utils.TritonModelException("Python model %s does not implement `execute` method." % self.path)
        answers = self.model.execute(requests)
        if hasattr(answers, "__await__"):
            answers = self.wait_for(answers)
        if not isinstance(answers, list):
            raise c_utils.TritonModelException("Expected a list in the execute return, found type '%s'." % type(answers))
        if len(answers) != count:
            raise c_utils.TritonModelException(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                "InferenceRequest(s) size is:%d, and InferenceResponse(s) size is:%d\n" % (count, len(answers))
            )
        for answer in answers:
            if not isinstance(answer, c_utils.InferenceResponse):
                raise c_utils.TritonModelException(
                    "Expected an 'InferenceResponse' object in the execute function return list, found type '%s'."
                    % type(answer)
                )
        return answers

    def wait_for(self, coroutine):
        import asyncio

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        return self.loop.run_until_complete(coroutine)


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
        stub = _Stub(_ferry_stub.open(control))
    except RuntimeError as error:
        sys.stderr.write("tensorferry: %s\n" % error)
        sys.exit(78)
    actions = {"auto_complete": stub.auto_complete, "load": stub.load}
    while True:
        event = _ferry_stub.wait()
        if event[0] == "execute":
            stub.execute(event[1], event[2])
        elif event[0] == "finalize":
            _attempt("finalize", stub.finalize)
            return
        else:
            _attempt(event[0], actions[event[0]], *event[1:])
