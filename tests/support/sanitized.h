// Whether a sanitizer that changes how a process lives (its address space, its forks) is built in,
// or an emulator runs it.
#pragma once

#include <cstdlib>

namespace tensorferry {

// qemu-user cannot start threads in a child of a process that had some.
inline bool emulated() { return std::getenv("TENSORFERRY_EMULATED") != nullptr; }
inline constexpr const char* kNoThreadsAfterAFork =
    "the emulator starts no threads in a forked child";

// UndefinedBehaviorSanitizer's. GCC does not tell; our builds have it there together with
// AddressSanitizer.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kVirtualCallsChecked = true;
#elif defined(__has_feature)
#if __has_feature(undefined_behavior_sanitizer)
inline constexpr bool kVirtualCallsChecked = true;
#else
inline constexpr bool kVirtualCallsChecked = false;
#endif
#else
inline constexpr bool kVirtualCallsChecked = false;
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace tensorferry
