# The interpreter that builds and, from its wheels, the headers of NumPy, DLPack, NVTX and CUDA and pybind11. Sets
# TENSORFERRY_HAVE_PYTHON.
include_guard(GLOBAL)

if(NOT Python_EXECUTABLE AND EXISTS "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  set(Python_EXECUTABLE "${PROJECT_SOURCE_DIR}/.venv/bin/python") # what ./dev makes
endif()

set(_missing "")
find_package(Python 3.9 COMPONENTS Interpreter Development.Module QUIET)
if(NOT Python_Interpreter_FOUND)
  list(APPEND _missing "Python 3.9 or later (apt-get install python3)")
elseif(NOT Python_Development.Module_FOUND)
  list(APPEND _missing "the headers of ${Python_EXECUTABLE} (apt-get install python3-dev)")
else()
  # One run of the interpreter answers for all the wheels; an empty line means that it isn't there.
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/wheel_headers.py"
    OUTPUT_VARIABLE _found OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  string(JSON _numpy GET "${_found}" numpy)
  string(JSON _dlpack GET "${_found}" dlpack)
  string(JSON _nvtx GET "${_found}" nvtx)
  string(JSON _cuda GET "${_found}" cuda)
  string(JSON _pybind11 GET "${_found}" pybind11)
  string(JSON TENSORFERRY_PYTHON_FREE_THREADED GET "${_found}" free_threaded)

  set(TENSORFERRY_DLPACK_INCLUDE_DIR "${_dlpack}" CACHE PATH "Folder that has dlpack/dlpack.h, 1.0 or later")
  if(NOT EXISTS "${TENSORFERRY_DLPACK_INCLUDE_DIR}/dlpack/dlpack.h")
    list(APPEND _missing "dlpack.h (${Python_EXECUTABLE} -m pip install apache-tvm-ffi, or -DTENSORFERRY_DLPACK_INCLUDE_DIR=)")
  endif()
  if(NOT _numpy)
    list(APPEND _missing "NumPy 2 or later (${Python_EXECUTABLE} -m pip install 'numpy>=2')")
  endif()
  find_package(pybind11 3.1 CONFIG QUIET HINTS "${_pybind11}")
  if(NOT pybind11_FOUND)
    list(APPEND _missing "pybind11 3.1 or later (${Python_EXECUTABLE} -m pip install 'pybind11>=3.1')")
  endif()
endif()

if(_missing)
  list(JOIN _missing "\n  " _missing)
  if(TENSORFERRY_BUILD_PYTHON STREQUAL "AUTO")
    message(STATUS "tensorferry: no stub and no Python bindings, since these were not found:\n  ${_missing}")
    return()
  endif()
  message(FATAL_ERROR "tensorferry's stub and Python bindings need what was not found:\n  ${_missing}\n"
                      "./dev installs all of it into .venv; -DTENSORFERRY_BUILD_PYTHON=OFF does without.")
endif()

add_library(tensorferry_dlpack_headers INTERFACE)
target_include_directories(tensorferry_dlpack_headers SYSTEM INTERFACE "${TENSORFERRY_DLPACK_INCLUDE_DIR}")
add_library(tensorferry_numpy_headers INTERFACE)
target_include_directories(tensorferry_numpy_headers SYSTEM INTERFACE "${_numpy}")
# Built on NumPy 2's headers, runs on NumPy 1.22 and later.
target_compile_definitions(
  tensorferry_numpy_headers INTERFACE NPY_TARGET_VERSION=NPY_1_22_API_VERSION NPY_NO_DEPRECATED_API=NPY_1_22_API_VERSION)
set(TENSORFERRY_HAVE_PYTHON ON)
