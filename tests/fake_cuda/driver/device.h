// What a device says of itself.
#pragma once

#include "cuda_api.h"
#include "settings.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace fakecuda {

struct Context;

struct Device {
  int physical = 0;  // its number on the machine, whatever CUDA_VISIBLE_DEVICES says
  CUuuid uuid{};
  std::shared_ptr<Context> primary;
  unsigned primary_references = 0;
  unsigned primary_flags = 0;
  CUmemoryPool pool = nullptr;          // the default one
  CUmemoryPool current_pool = nullptr;  // cuDeviceSetMemPool's
};

CUuuid uuid_of(int physical);
std::string uuid_text(const CUuuid& uuid);
// Those that CUDA_VISIBLE_DEVICES leaves, in its order.
std::vector<Device> visible_devices(const Settings& settings);
// nullopt: there is no such attribute (in that version).
std::optional<int> device_attribute(const Settings& settings, int ordinal, int physical,
                                    int attribute);
bool can_access_peer(const Settings& settings, int from, int to);

}  // namespace fakecuda
