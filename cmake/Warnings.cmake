# The warnings that our own targets are compiled with. They are errors only with TENSORFERRY_WERROR, which our presets set.
include_guard(GLOBAL)

function(tensorferry_set_warnings target)
  target_compile_options(
    ${target}
    PRIVATE -Wall
            -Wextra
            -Wpedantic
            -Wshadow
            -Wnon-virtual-dtor
            -Woverloaded-virtual
            -Wextra-semi
            -Wcast-qual
            -Wformat=2
            $<$<BOOL:${TENSORFERRY_WERROR}>:-Werror>
            # GCC 12 sees overlaps and overflows in std::string that are not there (its bugs 105329 and 105651).
            "$<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict;-Wno-stringop-overflow;-Wno-stringop-overread;-Wno-array-bounds>"
            # With sanitizers GCC warns of uninitialised parts inside <regex> and <functional>, as its manual says it may.
            $<$<AND:$<CXX_COMPILER_ID:GNU>,$<BOOL:${TENSORFERRY_SANITIZE}>>:-Wno-maybe-uninitialized>
            # Clang checks the thread annotations; GCC has no such thing.
            $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>)
endfunction()
