"""Copies its input on the device: the work that each peer's other process does, and counts as its own."""

import triton_python_backend_utils as pb_utils
from cuda.bindings import driver
from cuda.core import Device
from cuda.core.utils import StridedMemoryView


class TritonPythonModel:
    def initialize(self, args):
        device = Device(0)
        device.set_current()
        self.stream = device.create_stream()

    def view(self, tensor):
        return StridedMemoryView.from_dlpack(tensor, stream_ptr=int(self.stream.handle))

    def execute(self, requests):
        return [self.copy(request.inputs()[0]) for request in requests]

    def copy(self, tensor):
        out = pb_utils.empty(tensor.shape(), "uint8", device="cuda:0")
        to, of = self.view(out), self.view(tensor)
        (code,) = driver.cuMemcpyDtoDAsync(to.ptr, of.ptr, tensor.shape()[0], self.stream.handle)
        assert code == 0, code
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("OUT", out)])
