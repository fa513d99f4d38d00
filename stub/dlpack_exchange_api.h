// DLPack's C exchange API (specification 1.3): functions of a library, found through the type of
// its tensors. Facts of a layout, as headers before 1.3 don't have it.
#pragma once

#include <dlpack/dlpack.h>

#include <cstdint>

namespace tensorferry::stub {

inline constexpr const char* kExchangeApiAttribute = "__dlpack_c_exchange_api__";
inline constexpr const char* kExchangeApiCapsule = "dlpack_exchange_api";

struct ExchangeApiHeader {
  DLPackVersion version;
  ExchangeApiHeader* previous;  // of an older major version
};

// Of major version 1. Functions return 0, or -1 with a Python exception set.
struct ExchangeApi {
  ExchangeApiHeader header;
  void* allocate;
  int (*tensor_of_object)(void* object, DLManagedTensorVersioned** out);  // waits for nothing
  void* object_of_tensor;
  void* view_of_object;
  int (*current_stream)(DLDeviceType type, std::int32_t device, void** out);
};

}  // namespace tensorferry::stub
