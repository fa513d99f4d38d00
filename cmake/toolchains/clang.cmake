# The newest clang on this machine, 19 first: it is what tsan, fuzz and the thread annotations are checked with.
# Clang 18 and older cannot compile libstdc++'s <expected>; the compile then says so.
find_program(TENSORFERRY_CLANGXX NAMES clang++-19 clang++-20 clang++-21 clang++-22 clang++ REQUIRED)
set(CMAKE_CXX_COMPILER "${TENSORFERRY_CLANGXX}")
