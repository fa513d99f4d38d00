#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <tensorferry/transport/counters.h>
#include <tensorferry/transport/unique_fd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

namespace tensorferry {
namespace {

namespace fs = std::filesystem;

std::unexpected<Error> not_a_page(const std::string& why) {
  return failure(ErrorCode::Protocol, "a memfd named '" + std::string(kCounterPageName) +
                                          "' is no page of counters: " + why);
}

// A page of somebody else, to be read.
class MappedPage {
 public:
  explicit MappedPage(int fd)
      : memory_(::mmap(nullptr, sizeof(CounterPage), PROT_READ, MAP_SHARED, fd, 0)) {}
  ~MappedPage() {
    if (*this) ::munmap(memory_, sizeof(CounterPage));
  }
  MappedPage(const MappedPage&) = delete;
  MappedPage& operator=(const MappedPage&) = delete;
  explicit operator bool() const noexcept { return memory_ != MAP_FAILED; }
  const CounterPage* operator->() const noexcept {
    return static_cast<const CounterPage*>(memory_);
  }

 private:
  void* memory_;
};

// Nothing that could be truncated under us, or that has no pages to give.
Result<void> check_file(int fd) {
  struct stat status{};
  struct statfs system{};
  if (::fstat(fd, &status) != 0 || ::fstatfs(fd, &system) != 0)
    return not_a_page(std::strerror(errno));
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || system.f_type != TMPFS_MAGIC)
    return not_a_page("it is not a sealed memfd");
  if (status.st_size != sizeof(CounterPage))
    return not_a_page("it has " + std::to_string(status.st_size) + " bytes, and a page has " +
                      std::to_string(sizeof(CounterPage)));
  return {};
}

std::string printable(std::string_view text) {
  std::string result(text);
  std::ranges::replace_if(result, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return result;
}

// Up to the next NUL or the end; takes it off `text`.
std::string next_word(std::string_view& text) {
  const std::string_view word = text.substr(0, text.find('\0'));
  text.remove_prefix(std::min(word.size() + 1, text.size()));
  return printable(word);
}

CounterSample sample_of(const CounterSlot& slot) {
  // Copied once: its owner may change it while we look.
  char copy[kCounterTextBytes];
  std::memcpy(copy, slot.text, sizeof copy);
  const volatile std::uint32_t& length = slot.text_bytes;
  std::string_view text(copy, std::min<std::size_t>(length, sizeof copy));
  CounterSample sample;
  sample.value = slot.value.load(std::memory_order_relaxed);
  sample.name = next_word(text);
  while (!text.empty()) {
    std::string key = next_word(text);
    sample.labels.emplace_back(std::move(key), next_word(text));
  }
  return sample;
}

void merge(std::vector<CounterSample>& into, std::vector<CounterSample> more) {
  for (CounterSample& sample : more) {
    auto same = std::ranges::find_if(into, [&](const CounterSample& other) {
      return other.name == sample.name && other.labels == sample.labels;
    });
    if (same == into.end()) {
      into.push_back(std::move(sample));
    } else {
      same->value += sample.value;
    }
  }
}

}  // namespace

Result<std::vector<CounterSample>> read_counter_page(int fd) {
  if (auto good = check_file(fd); !good) return std::unexpected(good.error());
  MappedPage page(fd);
  if (!page) return not_a_page(std::string("mmap: ") + std::strerror(errno));
  if (page->header.magic != kCounterPageMagic) return not_a_page("its first bytes are others");
  if (page->header.version != kCounterPageVersion ||
      page->header.slot_bytes != sizeof(CounterSlot)) {
    return not_a_page("its layout is version " + std::to_string(page->header.version) +
                      ", and this reader knows version " + std::to_string(kCounterPageVersion));
  }
  const std::size_t used = page->header.used.load(std::memory_order_acquire);
  const std::size_t count = std::min(used, kCounterSlots);
  std::vector<CounterSample> samples;
  samples.reserve(count);
  for (std::size_t i = 0; i < count; ++i) samples.push_back(sample_of(page->slots[i]));
  return samples;
}

Result<std::vector<CounterSample>> read_process_counters(pid_t pid) {
  const std::string process = "process " + std::to_string(pid);
  const fs::path folder = "/proc/" + std::to_string(pid) + "/fd";
  const std::string link = "/memfd:" + std::string(kCounterPageName) + " (deleted)";
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  if (error == std::errc::no_such_file_or_directory)
    return failure(ErrorCode::NotFound, "there is no " + process);
  if (error) return system_failure("looking at the descriptors of " + process, error.value());

  std::optional<std::vector<CounterSample>> all;
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    std::error_code gone;
    if (fs::read_symlink(entries->path(), gone) != link) continue;
    UniqueFd fd(::open(entries->path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd) return system_failure("opening the counters of " + process, errno);
    auto samples = read_counter_page(fd.get());
    if (!samples) return std::unexpected(samples.error());
    if (!all) all.emplace();
    merge(*all, std::move(*samples));
  }
  if (error) return system_failure("looking at the descriptors of " + process, error.value());
  if (!all) {
    return failure(ErrorCode::NotFound,
                   process +
                       " has no counters: it does not use tensorferry, has not counted "
                       "anything yet, or closed the descriptor that they are found by");
  }
  return std::move(*all);
}

}  // namespace tensorferry
