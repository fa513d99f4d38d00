import ctypes
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What a model may do with a tensor on a GPU; the request's parameter `does` says what."""

    def initialize(self, args):
        self.kept = None

    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X")
            does = json.loads(request.parameters())["does"]
            responses.append(pb_utils.InferenceResponse([getattr(self, does)(x)]))
        return responses

    def passes_it_on(self, x):
        return x

    def reads_it_with_numpy(self, x):
        return pb_utils.Tensor("X", x.as_numpy() + 1)

    def makes_it_in_place(self, x):
        """In memory of ours, which goes without a copy."""
        out = pb_utils.empty(x.shape(), "float32", device="cuda:0")
        fill_with_sevens(out)
        return pb_utils.Tensor.from_dlpack("X", out)

    def keeps_it(self, x):
        """Somebody holds it still: the caller gets a copy."""
        self.kept = x
        return x


def fill_with_sevens(array):
    """In the place of a kernel of PyTorch's or CuPy's, so that nothing but the driver is needed."""
    cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    interface = array.__cuda_array_interface__
    address, count = interface["data"][0], int(np.prod(interface["shape"]))
    (seven,) = np.float32([7]).view(np.uint32)
    done = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or cuda.cuCtxSetCurrent(context)
    done = done or cuda.cuMemsetD32_v2(ctypes.c_uint64(address), ctypes.c_uint(int(seven)), ctypes.c_size_t(count))
    if done:
        raise RuntimeError(f"the CUDA driver says {done}")
