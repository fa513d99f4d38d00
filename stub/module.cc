// The extension `_ferry_stub`: the conversation with the server, and the pb_utils types.
#include <tensorferry/transport/fork_guard.h>

#include "batch_runner.h"
#include "cuda_array_interface.h"
#include "device_access.h"
#include "device_import.h"
#include "memory_object.h"
#include "numpy_allocator.h"
#include "numpy_api.h"
#include "py.h"
#include "python_half.h"
#include "request_object.h"
#include "response_object.h"
#include "stub_state.h"
#include "tensor_object.h"

namespace tensorferry::stub {
namespace {

PyObject* raise(const Error& error) {
  PyErr_SetString(PyExc_RuntimeError, error.message.c_str());
  return nullptr;
}

PyObject* open_link(PyObject*, PyObject* args) {
  int fd = -1;
  const char *implementation = nullptr, *version = nullptr, *executable = nullptr;
  if (!PyArg_ParseTuple(args, "issy", &fd, &implementation, &version, &executable)) return nullptr;
  auto link =
      without_gil([&] { return StubLink::open(fd, {implementation, version, executable}); });
  if (!link) return raise(link.error());
  StubState& one = state();
  one.link = link->release();
  one.holdings = new Holdings(*one.link);
  one.holdings->set_disown(disown_allocator);
  one.generation = fork_generation();
  return text(one.link->instance()).release();
}

const char* name_of(protocol::ControlKind kind) {
  switch (kind) {
    case protocol::ControlKind::AutoComplete:
      return "auto_complete";
    case protocol::ControlKind::Load:
      return "load";
    default:
      return "finalize";
  }
}

PyObject* serve(PyObject*, PyObject* args) {
  BatchCallables callables;
  if (!PyArg_ParseTuple(args, "OUOO", &callables.model, &callables.model_path, &callables.describe,
                        &callables.wait_for))
    return nullptr;
  static auto* runner = new BatchRunner(*state().holdings);
  while (true) {
    std::optional<Event> event;
    // Answers and waits for what comes next; the GIL is let go of once.
    auto sent = without_gil([&] {
      auto answered = runner->send();
      if (answered) event = state().link->wait({});
      return answered;
    });
    if (!sent) return raise(sent.error());
    if (!event) continue;
    if (auto* command = std::get_if<Command>(&*event)) {
      return Py_BuildValue("(sNN)", name_of(command->kind), text(command->first).release(),
                           text(command->second).release());
    }
    if (!runner->run(std::get<InboundBatch>(*event), callables)) return nullptr;
  }
}

PyObject* reply(PyObject*, PyObject* args) {
  const char* kind = nullptr;
  int failed = 0;
  PyObject* what = nullptr;
  if (!PyArg_ParseTuple(args, "spO", &kind, &failed, &what)) return nullptr;
  const std::string_view name(kind);
  auto to = name == "auto_complete" ? protocol::ControlKind::AutoComplete
            : name == "load"        ? protocol::ControlKind::Load
                                    : protocol::ControlKind::Finalize;
  const std::string body = to_string(what);
  auto sent = without_gil([&] { return state().link->reply(to, failed != 0, body); });
  if (!sent) return raise(sent.error());
  Py_RETURN_NONE;
}

PyObject* log(PyObject*, PyObject* args) {
  int level = 0;
  PyObject *file = nullptr, *what = nullptr;
  unsigned line = 0;
  if (!PyArg_ParseTuple(args, "iUIU", &level, &file, &line, &what)) return nullptr;
  const std::string file_text = to_string(file), body = to_string(what);
  if (is_forked_child() || !state().link) {
    std::fprintf(stderr, "%s:%u] %s\n", file_text.c_str(), line, body.c_str());
    Py_RETURN_NONE;
  }
  auto sent = without_gil([&] {
    return state().link->log(static_cast<protocol::LogLevel>(level), file_text, line, body);
  });
  if (!sent) return raise(sent.error());
  Py_RETURN_NONE;
}

bool read_shape(PyObject* tuple, Memory& memory) {
  memory.bytes = element_bytes(memory.dtype);
  for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); ++i) {
    const long long dim = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
    if (PyErr_Occurred()) return false;
    if (dim < 0 ||
        __builtin_mul_overflow(memory.bytes, static_cast<std::size_t>(dim), &memory.bytes)) {
      PyErr_SetString(PyExc_ValueError, "a dimension is negative, or the shape is too large");
      return false;
    }
    memory.shape.push_back(dim);
  }
  return true;
}

PyObject* empty(PyObject*, PyObject* args) {
  PyObject* shape = nullptr;
  int number = 0;
  if (!PyArg_ParseTuple(args, "O!i", &PyTuple_Type, &shape, &number)) return nullptr;
  Memory memory;
  memory.dtype = dtype_from_triton_number(number).value_or(kUint8);
  if (!read_shape(shape, memory)) return nullptr;
  if (is_forked_child()) Py_RETURN_NONE;
  auto block = without_gil([&] { return state().link->arena().allocate(memory.bytes); });
  if (!block) return raise(block.error());
  memory.data = block->data;
  memory.block = *block;
  PyRef object = new_memory(std::move(memory));
  return object ? array_over_memory(object.get()).release() : nullptr;
}

// A block on a device, as a Tensor without a name.
PyObject* empty_on_device(PyObject*, PyObject* args) {
  PyObject* shape = nullptr;
  int number = 0, ordinal = 0;
  if (!PyArg_ParseTuple(args, "O!ii", &PyTuple_Type, &shape, &number, &ordinal)) return nullptr;
  Memory memory;
  memory.dtype = dtype_from_triton_number(number).value_or(kUint8);
  if (!read_shape(shape, memory)) return nullptr;
  memory.device = use_on(ordinal, {});
  if (!memory.device) return nullptr;
  DeviceLane* lane = memory.device->lane;
  if (!lane) {
    return raise({ErrorCode::Unavailable,
                  "the server shares no memory of cuda:" + std::to_string(ordinal) +
                      " with this model: let your library allocate there",
                  {}});
  }
  auto block = without_gil([&] { return lane->allocate(memory.bytes); });
  if (!block) return raise(block.error());
  memory.data = block->data;
  memory.block = *block;
  PyRef object = new_memory(std::move(memory));
  return object ? new_tensor(text(""), std::move(object)).release() : nullptr;
}

PyObject* answer_given(Holdings::Given given) {
  if (given != Holdings::Given::MovedBefore) return PyBool_FromLong(given == Holdings::Given::Yes);
  PyErr_SetString(PyExc_ValueError,
                  "give(): this array was given before and is another's since it crossed: take a "
                  "new one from pb_utils.empty, which reuses warm memory");
  return nullptr;
}

PyObject* give_on_device(PyObject*, PyObject* object) {
  std::optional<CudaBytes> given;
  if (is_tensor(object)) {
    if (!is_on_device(as_tensor(object))) Py_RETURN_FALSE;
    const Memory& memory = memory_of(as_tensor(object)->memory);
    if (!memory.strides.empty()) Py_RETURN_FALSE;
    given = CudaBytes{memory.data, memory.bytes};
  } else {
    given = bytes_of_cuda_array(object);
  }
  if (!given) return nullptr;
  if (is_forked_child() || !given->data) Py_RETURN_FALSE;
  return answer_given(state().holdings->give({given->data, given->bytes}));
}

PyObject* be_strict(PyObject*, PyObject*) {
  state().strict = true;
  Py_RETURN_NONE;
}

PyObject* pin_memory(PyObject*, PyObject*) {
  state().link->pins().want();
  Py_RETURN_NONE;
}

PyObject* give(PyObject*, PyObject* object) {
  if (!numpy::load()) return nullptr;
  const numpy::Array* array = numpy::as_array(object);
  if (!array) {
    PyErr_SetString(PyExc_TypeError, "give(): a numpy.ndarray is needed");
    return nullptr;
  }
  // Only whole bytes in a row are given: of others nobody can say what the model still touches.
  const auto dtype = numpy::dtype_of(*array);
  if (is_forked_child() || !dtype || dtype->is_bytes() || !numpy::is_packed(*array))
    Py_RETURN_FALSE;
  const auto given = state().holdings->give({reinterpret_cast<const std::byte*>(array->data),
                                             numpy::bytes_of(*array, element_bytes(*dtype))});
  return answer_given(given);
}

PyObject* arena_free_bytes(PyObject*, PyObject*) {
  const ArenaStatistics statistics = state().link->arena().statistics();
  return PyLong_FromSize_t(statistics.segment_bytes - statistics.bytes_in_use);
}

PyObject* restore(PyObject*, PyObject*) {
  if (!restore_allocator()) return nullptr;
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"open", open_link, METH_VARARGS,
     "open(descriptor, implementation, version, executable) -> instance name"},
    {"serve", serve, METH_VARARGS,
     "serve(model, path, describe, wait_for) -> (command, text, text): runs batches until then"},
    {"reply", reply, METH_VARARGS, "reply(command, failed, text)"},
    {"log", log, METH_VARARGS, "log(level, file, line, text)"},
    {"empty", empty, METH_VARARGS,
     "empty(shape, triton dtype number) -> array in the arena; None in a forked child, which has "
     "none"},
    {"empty_on_device", empty_on_device, METH_VARARGS,
     "empty_on_device(shape, triton dtype number, ordinal) -> Tensor"},
    {"give_on_device", give_on_device, METH_O,
     "give_on_device(Tensor or CUDA array) -> whether its memory is ours"},
    {"pin_memory", pin_memory, METH_NOARGS,
     "shared memory is registered with CUDA once the model has made a context"},
    {"be_strict", be_strict, METH_NOARGS, "as_numpy() of a device tensor is an error from now on"},
    {"give", give, METH_O, "give(array) -> whether its memory is the arena's"},
    {"arena_free_bytes", arena_free_bytes, METH_NOARGS,
     "What the arena has allocated and not lent"},
    {"restore_allocator", restore, METH_NOARGS, "NumPy allocates by its own means again"},
    {"register", register_python_half, METH_VARARGS, "What the types need from Python"},
    {"get_input_tensor_by_name",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(get_input_tensor)),
     METH_VARARGS | METH_KEYWORDS, "The request's input of that name, or None."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_ferry_stub",
                          "The stub's native part.",
                          -1,
                          functions,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace
}  // namespace tensorferry::stub

// NOLINTNEXTLINE(bugprone-reserved-identifier): the name that CPython looks for
PyMODINIT_FUNC PyInit__ferry_stub() {
  using namespace tensorferry::stub;
  PyObject* module = PyModule_Create(&definition);
  if (!module) return nullptr;
  if (!make_memory_type(module) || !make_tensor_type(module) || !make_request_type(module) ||
      !make_response_type(module))
    return nullptr;
  return module;
}
