# TENSORFERRY_SANITIZE: a semicolon list of address, undefined, thread, integer, bounds, fuzzer-no-link; what -fsanitize= takes.
# It applies to everything built here, since a sanitizer that sees half of a program reports nonsense.
include_guard(GLOBAL)

set(TENSORFERRY_SANITIZE "" CACHE STRING "Sanitizers for the whole build, as -fsanitize= takes them")

if(TENSORFERRY_SANITIZE)
  list(JOIN TENSORFERRY_SANITIZE "," _sanitizers)
  add_compile_options(-fsanitize=${_sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${_sanitizers})
  if("integer" IN_LIST TENSORFERRY_SANITIZE)
    add_compile_options(-fsanitize-ignorelist=${CMAKE_CURRENT_LIST_DIR}/sanitizer_ignorelist.txt)
  endif()
endif()

option(TENSORFERRY_COVERAGE "Instrument for gcov" OFF)
if(TENSORFERRY_COVERAGE)
  add_compile_options(--coverage -fprofile-update=atomic)
  add_link_options(--coverage)
endif()
