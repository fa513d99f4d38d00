#include <gmock/gmock.h>

#include "use_emulator.h"

int main(int argc, char** argv) {
  tensorferry::use_emulator(argv);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
