// Where the stub's payload lies: the folder with launch.py and _ferry_stub that stubs are started
// from.
#pragma once

#include <tensorferry/transport/error.h>

#include <filesystem>

namespace tensorferry::server {

// `wanted` if it isn't empty (ServerOptions::payload), else $TENSORFERRY_PAYLOAD, else the first
// that is there of: beside the running program (../lib/tensorferry/payload), and in the
// installation that it was linked with. Error: NotFound with all places that were looked at.
// Thread-safe.
Result<std::filesystem::path> find_payload(const std::filesystem::path& wanted);

}  // namespace tensorferry::server
