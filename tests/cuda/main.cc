#include <gmock/gmock.h>

#include <string_view>

#include "fake_driver.h"
#include "peer.h"
#include "use_emulator.h"

int main(int argc, char** argv) {
  tensorferry::use_emulator(argv);
  if (argc > 1 && std::string_view(argv[1]) == tensorferry::cuda::kPeerArgument)
    return tensorferry::cuda::run_peer();
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
