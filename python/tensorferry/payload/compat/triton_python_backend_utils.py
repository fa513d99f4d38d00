"""`pb_utils`: what a model.py imports. The pure-Python half lives here, the types in `c_python_backend_utils`."""

import json
import struct
import sys

from c_python_backend_utils import (  # noqa: F401
    TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_GPU,
    InferenceRequest,
    InferenceResponse,
    Logger,
    PreferredMemory,
    Tensor,
    TritonError,
    TritonModelException,
    empty,
    get_input_tensor_by_name,
    give,
)

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2

_NUMPY_NAMES = {
    "TYPE_UINT8": "uint8",
    "TYPE_UINT16": "uint16",
    "TYPE_UINT32": "uint32",
    "TYPE_UINT64": "uint64",
    "TYPE_INT8": "int8",
    "TYPE_INT16": "int16",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
    "TYPE_STRING": "object_",
}
# TRITONSERVER_DataType, in order from 1; BF16 (14) has no NumPy type.
_BY_NUMBER = [
    "bool_",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "object_",
]


def __getattr__(name):
    """TRITON_STRING_TO_NUMPY is made when it is first asked for, so that a model without NumPy starts without it."""
    if name != "TRITON_STRING_TO_NUMPY":
        raise AttributeError("module '%s' has no attribute '%s'" % (__name__, name))
    import numpy as np

    table = {triton_name: getattr(np, numpy_name) for triton_name, numpy_name in _NUMPY_NAMES.items()}
    globals()[name] = dict(TYPE_BOOL=bool, **table)
    return globals()[name]


_model_dir = ""


def get_model_dir():
    """The folder of the version that is served: where model.py lies."""
    return _model_dir


def serialize_byte_tensor(input_tensor):
    """Strings or bytes as one flat `bytes`: each element after its length, 4 bytes little-endian."""
    import numpy as np

    if input_tensor.size == 0:
        return ()
    if input_tensor.dtype != np.object_ and input_tensor.dtype.type != np.bytes_:
        return None
    parts = []
    for item in np.nditer(input_tensor, flags=["refs_ok"], order="C"):
        value = item.item()
        data = value if isinstance(value, bytes) else str(value).encode("utf-8")
        parts.append(struct.pack("<I", len(data)) + data)
    return b"".join(parts)


def deserialize_bytes_tensor(encoded_tensor):
    """The inverse: a one-dimensional object array of bytes."""
    import numpy as np

    strings, offset = [], 0
    while offset < len(encoded_tensor):
        (length,) = struct.unpack_from("<I", encoded_tensor, offset)
        offset += 4
        strings.append(bytes(encoded_tensor[offset : offset + length]))
        offset += length
    return np.array(strings, dtype=np.object_)


def get_output_tensor_by_name(inference_response, name):
    """The response's output of that name, or None."""
    for tensor in inference_response.output_tensors():
        if tensor.name() == name:
            return tensor
    return None


def _config_by_name(entries, name):
    for entry in entries:
        if entry["name"] == name:
            return entry
    return None


def get_input_config_by_name(model_config, name):
    """The config's input of that name as a dict, or None."""
    return _config_by_name(model_config.get("input", []), name)


def get_output_config_by_name(model_config, name):
    """The config's output of that name as a dict, or None."""
    return _config_by_name(model_config.get("output", []), name)


def using_decoupled_model_transaction_policy(model_config):
    """Whether the config (a dict) asks for the decoupled mode."""
    return model_config.get("model_transaction_policy", {}).get("decoupled", False)


def triton_to_numpy_type(data_type):
    """NumPy's type for a TRITONSERVER_DataType number; None for BF16."""
    import numpy as np

    return getattr(np, _BY_NUMBER[data_type - 1]) if 1 <= data_type <= len(_BY_NUMBER) else None


def numpy_to_triton_type(data_type):
    """The TRITONSERVER_DataType number of a NumPy type."""
    import numpy as np

    for number, name in enumerate(_BY_NUMBER, start=1):
        if data_type == getattr(np, name) or (data_type is bool and number == 1):
            return number
    raise KeyError(data_type)


def triton_string_to_numpy(triton_type_string):
    """NumPy's type for a config's type string, e.g. "TYPE_FP32"."""
    return sys.modules[__name__].TRITON_STRING_TO_NUMPY[triton_type_string]


class ModelConfig:
    """A model's config as `auto_complete_config` gets and returns it."""

    def __init__(self, model_config):
        self._model_config = json.loads(model_config)

    def as_dict(self):
        """The config itself, not a copy."""
        return self._model_config

    def _name(self):
        return self._model_config["name"]

    def set_max_batch_size(self, max_batch_size):
        """Sets max_batch_size unless the config asks for a larger one, which is an error."""
        configured = self._model_config.get("max_batch_size", 0)
        if configured > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {configured}, but in auto-complete-config function for model "
                f"'{self._name()}' specified max_batch_size {max_batch_size}"
            )
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self):
        """Asks for dynamic batching unless the config has chosen another scheduler."""
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._model_config:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{other}', but auto-complete-config function for model "
                    f"'{self._name()}' tries to set scheduling_choice as 'dynamic_batching'"
                )
        self._model_config.setdefault("dynamic_batching", {})

    def add_input(self, input):
        """Adds an input, or checks it against the config's."""
        self._add("input", input, ("name", "data_type", "dims", "optional"), "'name', 'data_type', 'dims' and 'optional'")

    def add_output(self, output):
        """Adds an output, or checks it against the config's."""
        self._add("output", output, ("name", "data_type", "dims"), "'name', 'data_type' and 'dims'")

    def set_model_transaction_policy(self, transaction_policy_dict):
        """Sets `decoupled` unless the config says otherwise."""
        for key in transaction_policy_dict:
            if key != "decoupled":
                raise ValueError(
                    f"model transaction property in auto-complete-config function for model '{self._name()}' contains "
                    "property other than 'decoupled'."
                )
        policy = self._model_config.setdefault("model_transaction_policy", {})
        wanted = transaction_policy_dict.get("decoupled")
        if wanted is None:
            return
        if "decoupled" in policy and policy["decoupled"] != wanted:
            raise ValueError(
                f"trying to change decoupled property in auto-complete-config for model '{self._name()}', which is "
                f"already set to '{policy['decoupled']}'."
            )
        policy["decoupled"] = wanted

    def _add(self, kind, entry, allowed, allowed_text):
        model, name = self._name(), entry.get("name", "")
        where = f"in auto-complete-config function for model '{model}'"
        if any(key not in allowed for key in entry):
            raise ValueError(f"{kind} '{name}' {where} contains property other than {allowed_text}.")
        if "name" not in entry:
            raise ValueError(f"{kind} {where} is missing 'name' property.")
        for key in ("data_type", "dims"):
            if key not in entry:
                raise ValueError(f"{kind} '{name}' {where} is missing '{key}' property.")
        known = _config_by_name(self._model_config.setdefault(kind, []), name)
        if known is None:
            self._model_config[kind].append(dict(entry))
            return
        if known["data_type"] != entry["data_type"]:
            raise ValueError(
                f"unable to load model '{model}', configuration expects datatype {known['data_type']} for {kind} '{name}', "
                f"model provides {entry['data_type']}"
            )
        if [int(dim) for dim in known["dims"]] != list(entry["dims"]):
            raise ValueError(
                f"model '{model}', tensor '{name}': the model expects dims {entry['dims']} but the model configuration "
                f"specifies dims {known['dims']}"
            )
        if "optional" in entry and known.get("optional", False) != entry["optional"]:
            raise ValueError(
                f"model '{model}', tensor '{name}': the model expects optional {entry['optional']} but the model "
                f"configuration specifies optional {known.get('optional', False)}"
            )


# What `from triton_python_backend_utils import *` brings.
__all__ = [_name for _name in globals() if not _name.startswith("_")]
__all__ += ["TRITON_STRING_TO_NUMPY"]  # noqa: F822 (by __getattr__)
