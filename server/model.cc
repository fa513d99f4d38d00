#include <tensorferry/cuda/pointer_info.h>
#include <tensorferry/server/model.h>

#include "call_state.h"
#include "memory_options.h"
#include "model_slot.h"
#include "model_state.h"

namespace tensorferry::server {

Call::Call(std::shared_ptr<CallState> state, std::shared_ptr<ModelState> model)
    : state_(std::move(state)), model_(std::move(model)) {}

bool Call::wait(const Deadline& deadline) { return done() || state_->wait(deadline); }
bool Call::done() const noexcept { return !state_ || state_->done() || model_->forked(); }
Result<void> Call::take(Response& response) {
  expects(state_ != nullptr, "take() comes once");
  std::shared_ptr<CallState> state = std::move(state_);
  if (!model_->forked()) {
    Result<void> taken = state->take(response);
    model_->recycle(std::move(state));
    return taken;
  }
  // What was there at the fork is the child's too; the rest is its parent's business.
  return state->done() ? state->take(response) : std::unexpected(void_after_fork(model_->name()));
}
void Call::cancel(ErrorCode code, std::string why) {
  if (!done()) state_->cancel(code, std::move(why));
}

Model::Model(std::shared_ptr<ModelSlot> slot) : slot_(std::move(slot)) {}

const std::string& Model::name() const noexcept { return slot_->name(); }
Result<void> Model::check_process() const { return slot_->state()->check_process(); }
std::int64_t Model::version() const noexcept { return slot_->state()->version(); }
ModelConfig Model::config() const { return slot_->state()->config(); }
bool Model::ready() const noexcept { return slot_->state()->ready(); }
ModelStatistics Model::statistics() const { return slot_->state()->statistics(); }

Result<Buffer> Model::allocate(std::size_t bytes) {
  return slot_->state()->inputs().allocate(bytes);
}

Result<Buffer> Model::allocate(std::size_t bytes, const Device& device) {
  return slot_->state()->inputs().allocate(bytes, device);
}
Result<Buffer> Model::copy_in(const Buffer& on_device) {
  return slot_->state()->inputs().copy_in(on_device);
}
Result<int> Model::device_of(std::uintptr_t address) const {
  auto info = cuda::classify(address);
  if (!info) return std::unexpected(info.error());
  if (info->kind == cuda::MemoryKind::Host || info->ordinal < 0)
    return failure(ErrorCode::InvalidArgument, "the address is in no device's memory");
  return info->ordinal;
}
Result<std::uintptr_t> Model::device_stream(int device) {
  return slot_->state()->inputs().device_stream(device);
}
Result<void> Model::finish_copies(int device) {
  return slot_->state()->inputs().finish_copies(device);
}
Result<Buffer> Model::copy_in(const DeviceSource& source) {
  return slot_->state()->inputs().copy_in(source);
}

Result<Buffer> Model::copy_in(std::span<const std::byte> bytes) {
  auto buffer = allocate(bytes.size());
  if (!buffer) return buffer;
  CopyKind kind = bytes.size() < protocol::kInlineBelowBytes ? CopyKind::Inline : CopyKind::Host;
  copy_payload(buffer->bytes().data(), bytes.data(), bytes.size(), kind);
  return buffer;
}

Result<Call> Model::submit(Request&& request, std::function<void()> on_done,
                           const Deadline& deadline) {
  while (true) {
    auto state = slot_->state();
    auto call = state->submit(request, on_done, deadline);
    if (call) return Call(std::move(*call), std::move(state));
    // Loaded anew since we looked: its successor was put into the slot before it was closed.
    if (call.error().code == ErrorCode::Closed && slot_->state() != state) continue;
    return std::unexpected(call.error());
  }
}

Result<void> Model::infer(Request& request, Response& response, const Deadline& deadline) {
  auto call = submit(std::move(request));
  if (!call) return std::unexpected(call.error());
  if (!call->wait(deadline)) {
    call->cancel(ErrorCode::DeadlineExceeded,
                 "no answer from model '" + name() +
                     "' within the request's timeout; it was cancelled (the stub is left alone: "
                     "set TENSORFERRY_EXECUTE_TIMEOUT_S to have a hung one killed)");
  }
  return call->take(response);
}

}  // namespace tensorferry::server
