"""Tensors between this process and the Python processes that run its models, through shared memory.

with tensorferry.Server("models") as server:
    out = server.model("add_sub").infer({"INPUT0": a, "INPUT1": b})
"""

from ._server import __version__
from .errors import Error
from .server import Future, Model, Response, Server
from .tensor import Tensor, give

__all__ = ["Error", "Future", "Model", "Response", "Server", "Tensor", "__version__", "give"]
