// Which driver a test program runs on: the emulated one (tests/fake_cuda), or this machine's own.
#pragma once

namespace tensorferry {

// True where the tests shall run on whatever libcuda.so.1 there is, as if it were a real one:
// TENSORFERRY_TEST_GPU=1, as ./dev gpu-test sets it.
bool on_the_machines_driver();

// Starts this program again, once, with the emulator on its library path; nothing where that wasn't
// built, or isn't wanted. First thing in main().
void use_emulator(char** argv);

}  // namespace tensorferry
