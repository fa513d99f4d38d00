// The extension `_ferry_stub`: what runner.py and the pb_utils types stand on.
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/fork_guard.h>

#include "numpy_allocator.h"
#include "output_plan.h"
#include "py.h"
#include "stub_link.h"

namespace tensorferry::stub {
namespace {

StubLink* link_ = nullptr;  // one per process: it is the process's reason to be
Holdings* holdings_ = nullptr;
PyObject* memory_type = nullptr;
std::uint64_t generation_ = 0;

bool is_child() { return fork_generation() != generation_; }

PyObject* raise(const Error& error) {
  PyErr_SetString(PyExc_RuntimeError, error.message.c_str());
  return nullptr;
}

template <class Function>
auto without_gil(Function&& function) {
  PyThreadState* state = PyEval_SaveThread();
  auto result = function();
  PyEval_RestoreThread(state);
  return result;
}

// ---------------------------------------------------------------- Memory: an input's bytes, for
// NumPy
struct MemoryObject {
  PyObject_HEAD InputMemory* memory;  // of an input
  tensorferry::Block* block;          // of pb_utils.empty
  PyObject* interface;
};

std::byte* data_of(MemoryObject* self) {
  return self->memory ? self->memory->data : self->block->data;
}

void memory_dealloc(PyObject* object) {
  auto* self = reinterpret_cast<MemoryObject*>(object);
  if (self->memory && self->memory->lease != 0 && !is_child()) holdings_->drop_input(*self->memory);
  if (self->block && !is_child()) holdings_->drop_block(*self->block);
  delete self->memory;
  delete self->block;
  Py_XDECREF(self->interface);
  PyTypeObject* type = Py_TYPE(object);
  auto free = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
  free(object);
  Py_DECREF(type);
}

PyObject* memory_interface(PyObject* object, void*) {
  auto* self = reinterpret_cast<MemoryObject*>(object);
  Py_INCREF(self->interface);
  return self->interface;
}

PyObject* memory_address(PyObject* object, void*) {
  return PyLong_FromVoidPtr(data_of(reinterpret_cast<MemoryObject*>(object)));
}

PyObject* memory_bytes(PyObject* object, PyObject*) {
  auto* self = reinterpret_cast<MemoryObject*>(object);
  return PyBytes_FromStringAndSize(
      reinterpret_cast<const char*>(data_of(self)),
      static_cast<Py_ssize_t>(self->memory ? self->memory->bytes : self->block->bytes));
}

PyGetSetDef memory_getset[] = {{"__array_interface__", memory_interface, nullptr, nullptr, nullptr},
                               {"address", memory_address, nullptr, nullptr, nullptr},
                               {nullptr, nullptr, nullptr, nullptr, nullptr}};
PyMethodDef memory_methods[] = {{"tobytes", memory_bytes, METH_NOARGS, nullptr},
                                {nullptr, nullptr, 0, nullptr}};
PyType_Slot memory_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(memory_dealloc)},
                              {Py_tp_getset, memory_getset},
                              {Py_tp_methods, memory_methods},
                              {0, nullptr}};
PyType_Spec memory_spec = {"_ferry_stub.Memory", sizeof(MemoryObject), 0, Py_TPFLAGS_DEFAULT,
                           memory_slots};

PyRef shape_tuple(const std::vector<std::int64_t>& shape) {
  PyRef tuple(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  for (std::size_t i = 0; i < shape.size(); ++i) {
    PyTuple_SetItem(tuple.get(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(shape[i]));
  }
  return tuple;
}

PyRef new_memory(InputMemory* memory, tensorferry::Block* block, std::string_view typestr,
                 const std::vector<std::int64_t>& shape) {
  auto alloc = reinterpret_cast<allocfunc>(
      PyType_GetSlot(reinterpret_cast<PyTypeObject*>(memory_type), Py_tp_alloc));
  PyRef object(alloc(reinterpret_cast<PyTypeObject*>(memory_type), 0));
  if (!object) return object;
  auto* self = reinterpret_cast<MemoryObject*>(object.get());
  self->memory = memory;
  self->block = block;
  if (memory && memory->lease != 0) holdings_->add_input(*memory);
  PyRef shape_object = shape_tuple(shape);
  std::string type(typestr.empty() ? "|u1" : typestr);
  if (type == "|O") type = "|u1";
  self->interface =
      Py_BuildValue("{s:O,s:s,s:(Ni),s:i}", "shape", shape_object.get(), "typestr", type.c_str(),
                    "data", PyLong_FromVoidPtr(data_of(self)), 0, "version", 3);
  return object;
}

// ------------------------------------------------------------------------------- events into
// Python
PyRef parameters_dict(const InboundRequest& request) {
  PyRef dict(PyDict_New());
  for (const auto& [key, kind, integer, number, string] : request.parameters) {
    PyRef value;
    switch (kind) {
      case protocol::ParameterKind::Int:
        value = PyRef(PyLong_FromLongLong(integer));
        break;
      case protocol::ParameterKind::Bool:
        value = PyRef(PyBool_FromLong(integer != 0));
        break;
      case protocol::ParameterKind::Double:
        value = PyRef(PyFloat_FromDouble(number));
        break;
      case protocol::ParameterKind::String:
        value = text(string);
        break;
    }
    PyRef name = text(key);
    PyDict_SetItem(dict.get(), name.get(), value.get());
  }
  return dict;
}

PyRef input_tuple(InputTensor& input) {
  PyRef shape = shape_tuple(input.shape);
  PyRef memory = new_memory(input.memory.release(), nullptr, numpy_typestr(input.dtype),
                            input.dtype.is_bytes() || numpy_typestr(input.dtype).empty()
                                ? std::vector<std::int64_t>{}
                                : input.shape);
  return PyRef(Py_BuildValue("(NiNN)", text(input.name).release(), triton_number(input.dtype),
                             shape.release(), memory.release()));
}

PyRef request_tuple(InboundRequest& request) {
  PyRef inputs(PyList_New(0));
  for (InputTensor& input : request.inputs) {
    PyRef tuple = input_tuple(input);
    if (!tuple || PyList_Append(inputs.get(), tuple.get()) != 0) return {};
  }
  PyRef outputs(PyList_New(0));
  for (const std::string& name : request.outputs) {
    PyRef item = text(name);
    PyList_Append(outputs.get(), item.get());
  }
  PyRef correlation = request.correlation_text.empty()
                          ? PyRef(PyLong_FromUnsignedLongLong(request.correlation))
                          : text(request.correlation_text);
  return PyRef(Py_BuildValue(
      "(KNNIKNNN)", static_cast<unsigned long long>(request.number), text(request.id).release(),
      correlation.release(), static_cast<unsigned int>(request.flags),
      static_cast<unsigned long long>(request.timeout_us), parameters_dict(request).release(),
      outputs.release(), inputs.release()));
}

PyObject* event_object(Event& event) {
  if (auto* command = std::get_if<Command>(&event)) {
    const char* kind = command->kind == protocol::ControlKind::AutoComplete ? "auto_complete"
                       : command->kind == protocol::ControlKind::Load       ? "load"
                                                                            : "finalize";
    return Py_BuildValue("(sNN)", kind, text(command->first).release(),
                         text(command->second).release());
  }
  auto& batch = std::get<InboundBatch>(event);
  PyRef requests(PyList_New(0));
  for (InboundRequest& request : batch.requests) {
    PyRef tuple = request_tuple(request);
    if (!tuple || PyList_Append(requests.get(), tuple.get()) != 0) return nullptr;
  }
  return Py_BuildValue("(sKN)", "execute", static_cast<unsigned long long>(batch.number),
                       requests.release());
}

PyObject* wait(PyObject*, PyObject*) {
  auto event = without_gil([] { return link_->wait({}); });
  return event ? event_object(*event) : Py_BuildValue("");
}

PyObject* open_link(PyObject*, PyObject* args) {
  int fd = -1;
  if (!PyArg_ParseTuple(args, "i", &fd)) return nullptr;
  auto link = without_gil([&] { return StubLink::open(fd); });
  if (!link) return raise(link.error());
  link_ = link->release();
  holdings_ = new Holdings(*link_);
  holdings_->set_disown(disown_allocator);
  generation_ = fork_generation();
  return text(link_->instance()).release();
}

PyObject* reply(PyObject*, PyObject* args) {
  const char* kind = nullptr;
  int failed = 0;
  PyObject* what = nullptr;
  if (!PyArg_ParseTuple(args, "spO", &kind, &failed, &what)) return nullptr;
  std::string_view name(kind);
  auto to = name == "auto_complete" ? protocol::ControlKind::AutoComplete
            : name == "load"        ? protocol::ControlKind::Load
                                    : protocol::ControlKind::Finalize;
  std::string body = to_string(what);
  auto sent = without_gil([&] { return link_->reply(to, failed != 0, body); });
  if (!sent) return raise(sent.error());
  Py_RETURN_NONE;
}

PyObject* log(PyObject*, PyObject* args) {
  int level = 0;
  PyObject *file = nullptr, *what = nullptr;
  unsigned line = 0;
  if (!PyArg_ParseTuple(args, "iUIU", &level, &file, &line, &what)) return nullptr;
  std::string file_text = to_string(file), body = to_string(what);
  if (is_child() || !link_) {
    std::fprintf(stderr, "%s:%u] %s\n", file_text.c_str(), line, body.c_str());
    Py_RETURN_NONE;
  }
  auto sent = without_gil(
      [&] { return link_->log(static_cast<protocol::LogLevel>(level), file_text, line, body); });
  if (!sent) return raise(sent.error());
  Py_RETURN_NONE;
}

// empty(nbytes, typestr, shape) -> Memory over a fresh block
PyObject* empty(PyObject*, PyObject* args) {
  Py_ssize_t bytes = 0;
  const char* typestr = nullptr;
  PyObject* shape = nullptr;
  if (!PyArg_ParseTuple(args, "nsO!", &bytes, &typestr, &PyTuple_Type, &shape)) return nullptr;
  std::vector<std::int64_t> dims;
  dims.reserve(static_cast<std::size_t>(PyTuple_Size(shape)));
  for (Py_ssize_t i = 0; i < PyTuple_Size(shape); ++i)
    dims.push_back(PyLong_AsLongLong(PyTuple_GetItem(shape, i)));
  auto block =
      without_gil([&] { return link_->arena().allocate(static_cast<std::size_t>(bytes)); });
  if (!block) return raise(block.error());
  return new_memory(nullptr, new tensorferry::Block(*block), typestr, dims).release();
}

// ------------------------------------------------------------------------------------- answers
struct PlannedOutput {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::size_t place = 0;
};
struct PlannedResponse {
  std::uint64_t request = 0;
  bool failed = false;
  ErrorCode code = ErrorCode::Internal;
  std::string error;
  std::vector<PlannedOutput> outputs;
};

struct Answer {
  OutputPlan plan;
  std::vector<PlannedResponse> responses;
};
std::uint64_t reported_copies = 0;  // bytes copied that the server knows of
constexpr const char* kAnswer = "_ferry_stub.answer";

void delete_answer(PyObject* capsule) {
  delete static_cast<Answer*>(PyCapsule_GetPointer(capsule, kAnswer));
}

// One output: (name, triton dtype, shape, address or bytes, nbytes)
bool plan_output(Answer& answer, PlannedResponse& response, PyObject* tuple) {
  PyObject *name = nullptr, *shape = nullptr, *where = nullptr;
  int number = 0;
  Py_ssize_t bytes = 0;
  if (!PyArg_ParseTuple(tuple, "UiO!On", &name, &number, &PyTuple_Type, &shape, &where, &bytes))
    return false;
  PlannedOutput output;
  output.name = to_string(name);
  output.dtype = dtype_from_triton_number(number).value_or(kUint8);
  for (Py_ssize_t i = 0; i < PyTuple_Size(shape); ++i)
    output.shape.push_back(PyLong_AsLongLong(PyTuple_GetItem(shape, i)));
  const void* data = PyBytes_Check(where) ? PyBytes_AsString(where) : PyLong_AsVoidPtr(where);
  if (PyErr_Occurred()) return false;
  auto placed =
      answer.plan.add(static_cast<const std::byte*>(data), static_cast<std::size_t>(bytes));
  if (!placed) {
    response.failed = true;
    response.code = placed.error().code;
    response.error = placed.error().message;
    response.outputs.clear();
    return true;
  }
  output.place = *placed;
  response.outputs.push_back(std::move(output));
  return true;
}

// plan([(request number, error or None, code, [output...])...]) -> capsule
PyObject* plan(PyObject*, PyObject* list) {
  auto answer = std::make_unique<Answer>(Answer{OutputPlan(*holdings_), {}});
  for (Py_ssize_t i = 0; i < PyList_Size(list); ++i) {
    unsigned long long number = 0;
    PyObject *error = nullptr, *outputs = nullptr;
    int code = 0;
    if (!PyArg_ParseTuple(PyList_GetItem(list, i), "KOiO!", &number, &error, &code, &PyList_Type,
                          &outputs))
      return nullptr;
    PlannedResponse& response = answer->responses.emplace_back();
    response.request = number;
    if (error != Py_None) {
      response.failed = true;
      response.code = is_error_code(static_cast<std::uint8_t>(code)) ? static_cast<ErrorCode>(code)
                                                                     : ErrorCode::Unknown;
      response.error = to_string(error);
      continue;
    }
    for (Py_ssize_t k = 0; k < PyList_Size(outputs) && !response.failed; ++k) {
      if (!plan_output(*answer, response, PyList_GetItem(outputs, k))) return nullptr;
    }
  }
  return PyCapsule_New(answer.release(), kAnswer, delete_answer);
}

void fill(const Answer& answer, const PlannedOutput& output, protocol::TensorRecord& record) {
  record.name = output.name;
  record.dtype = output.dtype;
  record.shape = output.shape;
  record.memory = answer.plan.memory(output.place);
  record.inline_bytes = answer.plan.inline_bytes(output.place);
}

// send(capsule, batch, execute_ns): after Python has dropped what it could
PyObject* send(PyObject*, PyObject* args) {
  PyObject* capsule = nullptr;
  unsigned long long batch = 0, execute_ns = 0;
  if (!PyArg_ParseTuple(args, "OKK", &capsule, &batch, &execute_ns)) return nullptr;
  auto* answer = static_cast<Answer*>(PyCapsule_GetPointer(capsule, kAnswer));
  if (!answer) return nullptr;
  auto settled = answer->plan.settle();
  std::vector<protocol::TensorRecord> records;
  std::vector<protocol::ResponseRecord> responses;
  std::size_t total = 0;
  for (const auto& response : answer->responses) total += response.outputs.size();
  records.reserve(total);
  for (PlannedResponse& response : answer->responses) {
    if (!settled && !response.failed) {
      response.failed = true;
      response.code = settled.error().code;
      response.error = settled.error().message;
      response.outputs.clear();
    }
    std::size_t first = records.size();
    for (const PlannedOutput& output : response.outputs)
      fill(*answer, output, records.emplace_back());
    protocol::ResponseRecord& record = responses.emplace_back();
    record.request = response.request;
    record.flags = protocol::kResponseFinal;
    record.failed = response.failed;
    record.code = response.code;
    record.error = response.error;
    record.outputs = std::span(records).subspan(first);
  }
  std::vector<protocol::LeaseRelease> releases;
  link_->take_releases(releases);
  for (std::uint64_t lease : answer->plan.releases()) releases.push_back({lease, {}});
  protocol::Responses message;
  message.batch = batch;
  message.batch_done = true;
  message.responses = responses;
  message.releases = releases;
  message.execute_ns = execute_ns;
  const std::uint64_t copied = copy_counts().bytes_of(CopyKind::Host);
  message.copied_bytes = copied - std::exchange(reported_copies, copied);
  auto sent = without_gil([&] { return link_->respond(message); });
  if (!sent) return raise(sent.error());
  Py_RETURN_NONE;
}

PyObject* install(PyObject*, PyObject*) {
  PyRef previous = install_allocator(*holdings_);
  if (!previous && PyErr_Occurred()) return nullptr;
  if (!previous) Py_RETURN_NONE;
  return previous.release();
}

PyObject* restore(PyObject*, PyObject* previous) {
  if (previous != Py_None) restore_allocator(PyRef::borrow(previous));
  if (PyErr_Occurred()) return nullptr;
  Py_RETURN_NONE;
}

PyObject* count(PyObject*, PyObject* bytes) {
  count_copy(static_cast<std::size_t>(PyLong_AsUnsignedLongLong(bytes)), CopyKind::Host);
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {{"open", open_link, METH_VARARGS, nullptr},
                           {"wait", wait, METH_NOARGS, nullptr},
                           {"reply", reply, METH_VARARGS, nullptr},
                           {"log", log, METH_VARARGS, nullptr},
                           {"empty", empty, METH_VARARGS, nullptr},
                           {"plan", plan, METH_O, nullptr},
                           {"send", send, METH_VARARGS, nullptr},
                           {"install_allocator", install, METH_NOARGS, nullptr},
                           {"restore_allocator", restore, METH_O, nullptr},
                           {"count_copy", count, METH_O, nullptr},
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
  memory_type = PyType_FromSpec(&memory_spec);
  if (!memory_type) return nullptr;
  Py_INCREF(memory_type);
  PyModule_AddObject(module, "Memory", memory_type);
  return module;
}
