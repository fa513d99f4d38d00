import numpy as np
import triton_python_backend_utils as pb_utils

try:
    from PIL import Image
except ImportError:
    Image = None

SIZE = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class TritonPythonModel:
    """An image of any size as a vision model wants it: resized, normalised, channels first.

    There is no config.pbtxt: the model says itself what it takes.
    """

    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(0)
        config.add_input({"name": "IMAGE", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]})
        config.add_output({"name": "PIXELS", "data_type": "TYPE_FP32", "dims": [3, SIZE, SIZE]})
        return config

    def execute(self, requests):
        responses = []
        for request in requests:
            image = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
            resized = resize(image)
            # Allocated whole, then filled: the answer is born where the server reads it.
            pixels = np.empty((3, SIZE, SIZE), np.float32)
            pixels[:] = ((resized / 255 - MEAN) / DEVIATION).transpose(2, 0, 1)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("PIXELS", pixels)]))
        return responses


def resize(image):
    """Bilinear, by Pillow where it is there."""
    if Image is not None:
        return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.BILINEAR), np.float32)
    upper, lower, down = between(image.shape[0])
    left, right, across = between(image.shape[1])
    rows = mix(image[upper], image[lower], down[:, None, None])
    return mix(rows[:, left], rows[:, right], across[None, :, None])


def between(length):
    """For each of SIZE pixels: the source pixels around it, and how far it is from the one to the other."""
    where = np.clip((np.arange(SIZE, dtype=np.float32) + 0.5) * length / SIZE - 0.5, 0, length - 1)
    before = where.astype(int)
    return before, np.minimum(before + 1, length - 1), where - before


def mix(a, b, part):
    return a * (1 - part) + b * part
