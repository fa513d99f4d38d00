// Debian's static libstdc++ takes std::random_device's bytes from arc4random, which glibc has
// since 2.36. A definition of our own, which nobody outside this extension sees, keeps the
// extension loadable with older ones.
#include <sys/random.h>

#include <cstdint>
#include <cstdlib>

extern "C" [[gnu::visibility("hidden")]] std::uint32_t arc4random() {
  std::uint32_t value = 0;
  // Reads of at most 256 bytes are never cut short; they fail only where there is no such system
  // call.
  if (getrandom(&value, sizeof value, 0) != sizeof value) std::abort();
  return value;
}
