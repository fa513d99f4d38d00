#include "ipc_memory.h"
#include "physical.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace fakecuda {
namespace {

constexpr std::uint64_t kMagic = 0x7469'636b'6574'3031;

// Makes the bytes look opaque, so that nobody reads a field out of them. Not meant to be safe.
void scramble(unsigned char* bytes, std::size_t size) {
  std::uint32_t state = 0x2545f491;
  for (std::size_t i = 0; i < size; ++i) {
    state ^= (state & 0x7ffff) << 13;
    state ^= state >> 17;
    state ^= (state & 0x7ffffff) << 5;
    bytes[i] ^= static_cast<unsigned char>(state & 0xff);
  }
}

std::uint64_t check_of(const Ticket& ticket) {
  return ticket.magic ^ ticket.pid ^ ticket.fd ^ ticket.start_time ^ ticket.physical_id ^
         ticket.offset ^ ticket.address ^ ticket.size;
}

}  // namespace

void seal_ticket(const Ticket& ticket, void* sealed) {
  Ticket copy = ticket;
  copy.magic = kMagic;
  copy.check = check_of(copy);
  std::memcpy(sealed, &copy, sizeof(copy));
  scramble(static_cast<unsigned char*>(sealed), sizeof(copy));
}

bool open_ticket(const void* sealed, Ticket& ticket) {
  unsigned char bytes[sizeof(Ticket)];
  std::memcpy(bytes, sealed, sizeof(bytes));
  scramble(bytes, sizeof(bytes));
  std::memcpy(&ticket, bytes, sizeof(ticket));
  return ticket.magic == kMagic && ticket.check == check_of(ticket);
}

int ticket_descriptor(const Ticket& ticket) {
  if (!is_alive({ticket.pid, ticket.start_time})) return -1;
  const std::string path =
      "/proc/" + std::to_string(ticket.pid) + "/fd/" + std::to_string(ticket.fd);
  return ::open(path.c_str(), O_RDWR | O_CLOEXEC);
}

}  // namespace fakecuda
