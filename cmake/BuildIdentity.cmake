# TENSORFERRY_BUILD_ID: the version and a hash of everything that takes part in the crossing. Server and stub compare it in
# their handshake, so the same sources must give the same identity in every build tree, with or without git.
include_guard(GLOBAL)

file(GLOB_RECURSE _files LIST_DIRECTORIES false RELATIVE "${PROJECT_SOURCE_DIR}"
     "${PROJECT_SOURCE_DIR}/transport/*.cc" "${PROJECT_SOURCE_DIR}/transport/*.h"
     "${PROJECT_SOURCE_DIR}/cuda/*.cc" "${PROJECT_SOURCE_DIR}/cuda/*.h"
     "${PROJECT_SOURCE_DIR}/stub/*.cc" "${PROJECT_SOURCE_DIR}/stub/*.h"
     "${PROJECT_SOURCE_DIR}/server/*.cc" "${PROJECT_SOURCE_DIR}/server/*.h"
     "${PROJECT_SOURCE_DIR}/python/tensorferry/payload/*.py")
list(SORT _files)
set(_all "")
foreach(_file IN LISTS _files)
  file(SHA256 "${PROJECT_SOURCE_DIR}/${_file}" _hash)
  string(APPEND _all "${_file} ${_hash}\n")
endforeach()
string(SHA256 _all_hash "${_all}")
string(SUBSTRING "${_all_hash}" 0 12 _all_hash)
set(TENSORFERRY_BUILD_ID "${PROJECT_VERSION}+${_all_hash}")
message(STATUS "tensorferry: build ${TENSORFERRY_BUILD_ID}")
