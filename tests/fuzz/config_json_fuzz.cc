// A config as JSON, as auto_complete_config returns it: no text may crash the reader, and what it
// accepts says the same when it is read again.
#include <tensorferry/server/model_config.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using tensorferry::server::ModelConfig;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto config = ModelConfig::from_json(text, "m");
  if (!config) return config.error().message.empty() ? (std::abort(), 0) : 0;
  auto again = ModelConfig::from_json(config->json, "m");
  if (!again || again->json != config->json) std::abort();
  return 0;
}
