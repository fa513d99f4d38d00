// Segments of shared memory that the driver knows.
#pragma once

#include <tensorferry/cuda/context.h>
#include <tensorferry/transport/segment.h>

namespace tensorferry::cuda {

// Registers the segment's mapping in this process, for all devices; unregistered just before it is
// unmapped. Counted ("pinned_segments" by `outcome`). Takes time, as PinnedRegion::create(), and
// has its errors. One thread at a time for one segment; nothing happens for one that is pinned.
Result<void> pin_segment(Segment& segment, ContextPtr context);

}  // namespace tensorferry::cuda
