#include "payload.h"

#include <cstdlib>
#include <string>
#include <vector>

// The installed package's CMake config compiles it into what links tensorferry::server, since only
// that knows where the package lies; null elsewhere.
// NOLINTNEXTLINE(readability-identifier-naming): a C name, since it has no namespace.
extern "C" [[gnu::weak]] const char tensorferry_payload_location[];

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> usual_places() {
  std::vector<fs::path> places;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path prefix = program.parent_path().parent_path();
  if (!error) places.push_back(prefix / "lib/tensorferry/payload");
  if (tensorferry_payload_location) places.emplace_back(tensorferry_payload_location);
  return places;
}

}  // namespace

Result<fs::path> find_payload(const fs::path& wanted) {
  if (!wanted.empty()) return wanted;
  if (const char* named = std::getenv("TENSORFERRY_PAYLOAD"); named && *named) return named;
  std::string looked;
  for (const fs::path& place : usual_places()) {
    std::error_code error;
    if (fs::exists(place / "launch.py", error)) return place;
    looked += (looked.empty() ? "'" : ", '") + place.string() + "'";
  }
  return failure(ErrorCode::NotFound,
                 "the stub's payload (a folder with launch.py) is not in any of its places: " +
                     looked + "; set ServerOptions::payload or TENSORFERRY_PAYLOAD to it");
}

}  // namespace tensorferry::server
