// A model's memory on GPUs where no test of these touches one: nothing of CUDA is loaded.
#pragma once

#include <memory>

#include "gpu_arenas.h"

namespace tensorferry::server {

inline std::shared_ptr<GpuArenas> no_gpus(std::shared_ptr<SegmentAuthority> segments) {
  return std::make_shared<GpuArenas>(std::make_shared<Gpus>(), std::move(segments),
                                     GpuArenaOptions{}, std::make_shared<IdleWatch>());
}

}  // namespace tensorferry::server
