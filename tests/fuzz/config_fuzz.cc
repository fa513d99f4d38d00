// config.pbtxt: no text may crash the reader, and what it accepts must survive the way through
// JSON.
#include <tensorferry/server/model_config.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tensorferry::server;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  auto json = config_to_json(text, "config.pbtxt");
  auto config = ModelConfig::from_text(text, "config.pbtxt", "m");
  if (config && !json) std::abort();
  if (config) {
    auto again = ModelConfig::from_json(config->json, "m");
    if (!again || again->json != config->json) std::abort();
  }
  if (!json && check_config(text, "config.pbtxt", "m").front().line < 1) std::abort();
  return 0;
}
