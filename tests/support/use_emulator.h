// Makes a test program find the emulated driver (tests/fake_cuda) as libcuda.so.1.
#pragma once

namespace tensorferry {

// Starts this program again, once, with the emulator on its library path; nothing where that wasn't
// built. First thing in main().
void use_emulator(char** argv);

}  // namespace tensorferry
