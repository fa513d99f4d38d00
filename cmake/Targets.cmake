# How our targets are made, once: language level, visibility, warnings, headers, precompiled headers.
include_guard(GLOBAL)

find_program(TENSORFERRY_CCACHE ccache)
mark_as_advanced(TENSORFERRY_CCACHE)
if(TENSORFERRY_CCACHE AND PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  # The sloppiness is what ccache asks for with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
                                  "${TENSORFERRY_CCACHE}")
endif()

# What every target of ours has.
function(tensorferry_configure_target target)
  target_compile_features(${target} PUBLIC cxx_std_23)
  set_target_properties(
    ${target}
    PROPERTIES CXX_EXTENSIONS OFF
               POSITION_INDEPENDENT_CODE ON
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON)
  tensorferry_set_warnings(${target})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT CMAKE_DISABLE_PRECOMPILE_HEADERS)
    target_compile_options(${target} PRIVATE -fpch-preprocess)
  endif()
endfunction()

# Standard headers that nearly every file of ours includes, compiled once. A file that relies on this instead of its own
# includes fails to build in the presets without precompiled headers (release, tidy).
set(TENSORFERRY_STD_HEADERS
    <algorithm> <atomic> <chrono> <cstdint> <expected> <functional> <map> <memory> <mutex> <optional> <span> <string>
    <string_view> <thread> <unordered_map> <utility> <vector>)

# tensorferry_add_library(NAME [DEPENDS targets...] [LINK privately linked targets...])
# Makes tensorferry::NAME from the folder's *.cc and include/**.h. A folder without sources is skipped, which is said.
function(tensorferry_add_library name)
  cmake_parse_arguments(arg "" "" "DEPENDS;LINK;GENERATED" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cc")
  file(GLOB headers CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/include/tensorferry/${name}/*.h")
  if(NOT sources)
    message(STATUS "tensorferry: ${name}/ has no sources: skipped")
    return()
  endif()
  foreach(dependency IN LISTS arg_DEPENDS)
    if(NOT TARGET ${dependency})
      message(STATUS "tensorferry: ${name}/ needs ${dependency}, which is not built: skipped")
      return()
    endif()
  endforeach()

  set(target tensorferry_${name})
  add_library(${target} STATIC ${sources})
  add_library(tensorferry::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} VERIFY_INTERFACE_HEADER_SETS ON)
  tensorferry_configure_target(${target})
  set(base_dirs "${CMAKE_CURRENT_SOURCE_DIR}/include")
  if(arg_GENERATED)
    list(APPEND base_dirs "${CMAKE_CURRENT_BINARY_DIR}/include")
  endif()
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${base_dirs} FILES ${headers} ${arg_GENERATED})
  target_link_libraries(${target} PUBLIC ${arg_DEPENDS} PRIVATE ${arg_LINK})
  target_precompile_headers(${target} PRIVATE ${TENSORFERRY_STD_HEADERS})
  if(TENSORFERRY_INSTALL)
    install(TARGETS ${target} EXPORT tensorferry ARCHIVE COMPONENT development FILE_SET HEADERS COMPONENT development)
  endif()
endfunction()

# GoogleTest and the standard headers, precompiled once for all of the tests: by an executable, since they are that and what
# is precompiled serves only the same options.
function(tensorferry_precompile_test_headers target)
  set(shared tensorferry_test_headers)
  if(NOT TARGET ${shared})
    file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/${shared}.cc" CONTENT "int main() {}\n")
    add_executable(${shared} EXCLUDE_FROM_ALL "${PROJECT_BINARY_DIR}/${shared}.cc")
    tensorferry_configure_target(${shared})
    target_link_libraries(${shared} PRIVATE GTest::gmock Threads::Threads)
    target_precompile_headers(${shared} PRIVATE ${TENSORFERRY_STD_HEADERS} <gmock/gmock.h> <gtest/gtest.h>)
  endif()
  target_precompile_headers(${target} REUSE_FROM ${shared})
endfunction()

# tensorferry_add_test(NAME SOURCES ... LINK targets... INCLUDE private include folders...)
# One GoogleTest executable, its cases known to ctest one by one.
function(tensorferry_add_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK;INCLUDE" ${ARGN})
  set(target tensorferry_${name}_test)
  add_executable(${target} ${arg_SOURCES})
  tensorferry_configure_target(${target})
  target_include_directories(${target} PRIVATE ${arg_INCLUDE})
  target_link_libraries(${target} PRIVATE ${arg_LINK} GTest::gmock_main Threads::Threads ${CMAKE_DL_LIBS})
  target_compile_definitions(${target} PRIVATE TENSORFERRY_TEST_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
  tensorferry_precompile_test_headers(${target})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
  # gtest_discover_tests takes lists apart, so that each property can carry one variable.
  set(environment "")
  if(TENSORFERRY_HAVE_PYTHON)
    set(environment ENVIRONMENT "TENSORFERRY_PAYLOAD=${TENSORFERRY_STAGED_PACKAGE}/payload"
                    ENVIRONMENT_MODIFICATION "TENSORFERRY_TEST_PYTHON=set:${Python_EXECUTABLE}")
  endif()
  gtest_discover_tests(
    ${target}
    TEST_PREFIX "${name}."
    DISCOVERY_MODE PRE_TEST
    DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS ${name} TIMEOUT 120 ${environment})
endfunction()

# tensorferry_add_fuzzer(FILE LINK targets... INCLUDE folders...): FILE is NAME_fuzz.cc, the executable NAME_fuzz.
function(tensorferry_add_fuzzer file)
  cmake_parse_arguments(arg "" "" "LINK;INCLUDE" ${ARGN})
  cmake_path(GET file STEM target)
  add_executable(${target} "${file}")
  tensorferry_configure_target(${target})
  target_include_directories(${target} PRIVATE ${arg_INCLUDE})
  target_link_libraries(${target} PRIVATE ${arg_LINK} Threads::Threads ${CMAKE_DL_LIBS})
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
endfunction()
