// Statistics as Prometheus text (exposition format 0.0.4).
#pragma once

#include <tensorferry/server/statistics.h>
#include <tensorferry/transport/copy.h>

#include <span>
#include <string>

namespace tensorferry::server {

std::string metrics_text(std::span<const ModelStatistics> models, const CopyCounts& copies);

}  // namespace tensorferry::server
