"""Fills its input on the device and passes it on: one operation, and one event for the server to look at."""

import triton_python_backend_utils as pb_utils
from cuda.bindings import driver
from cuda.core import Device
from cuda.core.utils import StridedMemoryView


class TritonPythonModel:
    def initialize(self, args):
        device = Device(0)
        device.set_current()
        self.stream = device.create_stream()

    def execute(self, requests):
        return [pb_utils.InferenceResponse([self.edit(request.inputs()[0])]) for request in requests]

    def edit(self, tensor):
        view = StridedMemoryView.from_dlpack(tensor, stream_ptr=int(self.stream.handle))
        (code,) = driver.cuMemsetD8Async(view.ptr, 1, tensor.shape()[0], self.stream.handle)
        assert code == 0, code
        return tensor
