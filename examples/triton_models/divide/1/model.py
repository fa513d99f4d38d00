import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What goes wrong, and who hears of it.

    A TritonError is the answer to one request; the others of the batch get theirs. An exception ends the whole batch. Both
    reach the client and the server's log, and the model serves on.
    """

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        dividend = pb_utils.get_input_tensor_by_name(request, "DIVIDEND").as_numpy()
        divisor = pb_utils.get_input_tensor_by_name(request, "DIVISOR").as_numpy()
        if dividend.shape != divisor.shape:
            raise ValueError(f"DIVIDEND has shape {dividend.shape} and DIVISOR {divisor.shape}")
        if not np.all(divisor):
            error = pb_utils.TritonError("DIVISOR has a zero in it", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor("QUOTIENT", dividend // divisor)])
