# Every find_package. What is missing is said together with the package that brings it.
include_guard(GLOBAL)

function(_tensorferry_missing what debian)
  message(FATAL_ERROR "tensorferry needs ${what}, which was not found.\n  Debian, Ubuntu: apt-get install ${debian}\n${ARGN}")
endfunction()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "tensorferry is C++23 with <expected>: GCC 12 or clang 19 is needed, and this is GCC "
                      "${CMAKE_CXX_COMPILER_VERSION} (apt-get install g++ on Debian 12 or Ubuntu 24.04).")
elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19)
  message(FATAL_ERROR "tensorferry is C++23 with <expected>: GCC 12 or clang 19 is needed, and this is clang "
                      "${CMAKE_CXX_COMPILER_VERSION} (apt-get install clang-19).")
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

if(TENSORFERRY_BUILD_SERVER)
  find_package(nlohmann_json 3.10 QUIET)
  if(NOT nlohmann_json_FOUND)
    _tensorferry_missing("nlohmann_json (JSON for C++)" nlohmann-json3-dev "  or -DTENSORFERRY_BUILD_SERVER=OFF for the transport alone")
  endif()
endif()

if(TENSORFERRY_BUILD_TESTS)
  if(CMAKE_CROSSCOMPILING AND EXISTS /usr/src/googletest/CMakeLists.txt)
    # Debian's package `googletest` brings the sources, which is what another architecture needs.
    set(INSTALL_GTEST OFF)
    add_subdirectory(/usr/src/googletest "${PROJECT_BINARY_DIR}/googletest" EXCLUDE_FROM_ALL SYSTEM)
  else()
    find_package(GTest QUIET)
  endif()
  if(NOT TARGET GTest::gmock_main)
    _tensorferry_missing("GoogleTest with GoogleMock" "libgtest-dev libgmock-dev" "  or -DTENSORFERRY_BUILD_TESTS=OFF")
  endif()
endif()

if(TENSORFERRY_BUILD_BENCH)
  find_package(benchmark QUIET) # only for bench/micro/, which says so where it isn't there
endif()

# Python: for the stub's extension (NumPy's and DLPack's headers) and for the bindings (pybind11).
# All three come from wheels of the interpreter that builds; `./dev` and pip see to it that they are there.
set(TENSORFERRY_HAVE_PYTHON OFF)
if(TENSORFERRY_BUILD_PYTHON)
  include(PythonDependencies)
endif()

# Presets without Python build on the headers of its wheels all the same.
if(NOT DEFINED _found AND NOT Python_EXECUTABLE AND EXISTS "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  set(Python_EXECUTABLE "${PROJECT_SOURCE_DIR}/.venv/bin/python")
endif()
if(NOT DEFINED _found AND Python_EXECUTABLE)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/wheel_headers.py"
    OUTPUT_VARIABLE _found OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  string(JSON _nvtx GET "${_found}" nvtx)
  string(JSON _cuda GET "${_found}" cuda)
endif()

# NVTX's headers, for spans in NVIDIA's tools: from a CUDA toolkit, or from the wheel nvidia-nvtx. Nothing of it is linked.
find_path(
  TENSORFERRY_NVTX_INCLUDE_DIR nvtx3/nvToolsExt.h
  HINTS ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda "${_nvtx}"
  PATH_SUFFIXES include ""
  DOC "Folder that has nvtx3/nvToolsExt.h")
mark_as_advanced(TENSORFERRY_NVTX_INCLUDE_DIR)
add_library(tensorferry_nvtx_headers INTERFACE)
if(TENSORFERRY_NVTX_INCLUDE_DIR)
  target_include_directories(tensorferry_nvtx_headers SYSTEM INTERFACE "${TENSORFERRY_NVTX_INCLUDE_DIR}")
else()
  message(STATUS "tensorferry: no nvtx3/nvToolsExt.h (CUDA toolkit, or pip install nvidia-nvtx): built without NVTX ranges")
endif()

# cuda.h, for the driver's types: from the wheel nvidia-cuda-runtime, or from a CUDA toolkit, which may be an older one. Nothing
# of it is linked. 12.8 is the first whose cuda.h names all that we call.
find_path(
  TENSORFERRY_CUDA_INCLUDE_DIR cuda.h
  HINTS "${_cuda}" ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda
  PATH_SUFFIXES include ""
  DOC "Folder that has cuda.h, 12.8 or later")
mark_as_advanced(TENSORFERRY_CUDA_INCLUDE_DIR)
if(TENSORFERRY_CUDA_INCLUDE_DIR)
  file(STRINGS "${TENSORFERRY_CUDA_INCLUDE_DIR}/cuda.h" _cuda_version REGEX "^#define CUDA_VERSION [0-9]+$")
  string(REGEX REPLACE "[^0-9]" "" _cuda_version "${_cuda_version}")
endif()
if(_cuda_version GREATER_EQUAL 12080)
  add_library(tensorferry_cuda_headers INTERFACE)
  target_include_directories(tensorferry_cuda_headers SYSTEM INTERFACE "${TENSORFERRY_CUDA_INCLUDE_DIR}")
else()
  message(STATUS "tensorferry: no cuda.h of 12.8 or later (CUDA toolkit, or pip install nvidia-cuda-runtime)")
endif()
