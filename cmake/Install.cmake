# What `cmake --install` brings: the libraries and their headers (component development), and the payload that the C++
# server starts stubs with (component payload). The component python is pip's and has its own layout.
include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

set(_config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/tensorferry")
set(TENSORFERRY_PAYLOAD_INSTALL_DIR "${CMAKE_INSTALL_LIBDIR}/tensorferry/payload")

if(TARGET tensorferry_transport)
  install(EXPORT tensorferry NAMESPACE tensorferry:: DESTINATION "${_config_dir}" FILE tensorferryTargets.cmake COMPONENT development)
endif()
configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/tensorferryConfig.cmake.in" "${PROJECT_BINARY_DIR}/tensorferryConfig.cmake"
  INSTALL_DESTINATION "${_config_dir}" PATH_VARS TENSORFERRY_PAYLOAD_INSTALL_DIR)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/tensorferryConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/tensorferryConfig.cmake" "${PROJECT_BINARY_DIR}/tensorferryConfigVersion.cmake"
        DESTINATION "${_config_dir}" COMPONENT development)

if(TARGET _ferry_stub)
  install(TARGETS _ferry_stub LIBRARY DESTINATION "${TENSORFERRY_PAYLOAD_INSTALL_DIR}" COMPONENT payload)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/python/tensorferry/payload/" DESTINATION "${TENSORFERRY_PAYLOAD_INSTALL_DIR}"
          COMPONENT payload FILES_MATCHING PATTERN "*.py" PATTERN "__pycache__" EXCLUDE)
endif()
