// How a test and its peer talk: one frame each way at a time.
#pragma once

#include "peer.h"

namespace tensorferry::cuda {

inline constexpr int kPeerSocket = 30;  // the peer's descriptor

// An answer that says why not.
PeerFrame failed(const std::string& why);
bool send_frame(int socket, const PeerFrame& frame, int fd = -1);
bool receive_frame(int socket, PeerFrame& frame, UniqueFd& fd);

}  // namespace tensorferry::cuda
