import io

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image


class TritonPythonModel:
    """Decodes a PNG, JPEG or WebP file by Pillow, which only this model's own environment has."""

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("IMAGE", decode(request))]) for request in requests]


def decode(request):
    file = pb_utils.get_input_tensor_by_name(request, "FILE").as_numpy()[0]
    return np.array(Image.open(io.BytesIO(file)).convert("RGB"))
