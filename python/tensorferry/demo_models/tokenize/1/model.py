import re

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Splits texts into words: strings in, strings and counts out."""

    def initialize(self, args):
        self.word = re.compile(r"\w+")

    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            words = [self.word.findall(text.decode("utf-8")) for text in texts.reshape(-1)]
            flat = np.array([word.lower().encode("utf-8") for each in words for word in each], dtype=np.object_)
            lengths = np.array([len(each) for each in words], dtype=np.int32)
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("TOKENS", flat), pb_utils.Tensor("LENGTHS", lengths)])
            )
        return responses
