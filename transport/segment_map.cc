#include <tensorferry/transport/segment.h>

#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>

namespace tensorferry {

struct SegmentMap::Impl {
  mutable std::shared_mutex mutex;
  std::unordered_map<SegmentId, std::shared_ptr<Segment>> segments;
};

SegmentMap::SegmentMap() : impl_(std::make_unique<Impl>()) {}
SegmentMap::~SegmentMap() = default;

void SegmentMap::insert(std::shared_ptr<Segment> segment) {
  std::unique_lock lock(impl_->mutex);
  SegmentId id = segment->id();
  impl_->segments.insert_or_assign(id, std::move(segment));
}

void SegmentMap::erase(SegmentId id) {
  std::shared_ptr<Segment> last;  // unmapped outside the lock
  std::unique_lock lock(impl_->mutex);
  if (auto it = impl_->segments.find(id); it != impl_->segments.end()) {
    last = std::move(it->second);
    impl_->segments.erase(it);
  }
}

std::shared_ptr<Segment> SegmentMap::find(SegmentId id) const {
  std::shared_lock lock(impl_->mutex);
  auto it = impl_->segments.find(id);
  return it == impl_->segments.end() ? nullptr : it->second;
}

std::vector<std::shared_ptr<Segment>> SegmentMap::all() const {
  std::shared_lock lock(impl_->mutex);
  std::vector<std::shared_ptr<Segment>> result;
  result.reserve(impl_->segments.size());
  for (const auto& [id, segment] : impl_->segments) result.push_back(segment);
  return result;
}

Result<SegmentMap::Range> SegmentMap::resolve(SegmentId id, std::uint64_t offset,
                                              std::uint64_t bytes) const {
  auto segment = find(id);
  if (!segment)
    return failure(ErrorCode::Protocol, "segment " + std::to_string(id) + " is not known");
  if (!segment->contains(offset, bytes)) {
    return failure(ErrorCode::Protocol, "bytes " + std::to_string(offset) + " and " +
                                            std::to_string(bytes) + " more leave segment " +
                                            std::to_string(id) + " of " +
                                            std::to_string(segment->bytes()) + " bytes");
  }
  std::span<std::byte> range(segment->data() + offset, bytes);
  return Range{std::move(segment), range};
}

}  // namespace tensorferry
