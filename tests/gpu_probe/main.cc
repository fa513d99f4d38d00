// gpu-probe [--json] [NUMBER...]: asks the first visible device what documents leave open. Exit
// codes: 0 all questions were answered or say why not, 1 some failed, 3 there is no device.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/driver.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include "answer.h"
#include "gpu.h"
#include "helper.h"

namespace tensorferry::gpu_probe {
namespace {

constexpr int kLimitMs = 60'000;  // for each question
constexpr const char* kAskArgument = "--ask";
constexpr char kSeparator = '\x1f';

constexpr const char* kFailed = "failed";
constexpr const char* kEmulated = "emulated";
constexpr const char* kTableHead = "| | question | answer | seen |\n| --: | --- | --- | --- |\n";

// What the first visible device is: question 0.
Result<Answer> the_device() {
  auto device = cuda::device_by_ordinal(0);
  if (!device) return std::unexpected(device.error());
  char name[128] = "a GPU";
  if (auto* get = driver_function<int(char*, int, int)>("cuDeviceGetName"))
    get(name, sizeof name, device->ordinal);
  const int version = cuda::Driver::get().value()->info().version;
  std::string detail = cuda::to_string(device->uuid) + ", CUDA " + std::to_string(version / 1000) +
                       "." + std::to_string(version % 1000 / 10);
  return Answer{name, emulated() ? detail + ", " + kEmulated : detail};
}

// In the process of one question.
[[noreturn]] void answer_alone(int number) {
  auto* ask = the_device;
  for (const Question& each : questions())
    if (each.number == number) ask = each.ask;
  const auto answered = ask();
  const Answer answer = answered ? *answered : Answer{kFailed, answered.error().message};
  std::printf("%s%c%s\n", answer.text.c_str(), kSeparator, answer.detail.c_str());
  std::fflush(stdout);
  ::_exit(0);  // whatever is still under way on the device
}

// All that is said until its end, or until the time is over.
std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kLimitMs);
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd ready{fd, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(left.count())) <= 0) return text;
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

Answer ask_in_a_process(const Question& question) {
  int ends[2];
  if (::pipe(ends) != 0) return {kFailed, "pipe"};
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string number = std::to_string(question.number);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);
    ::dup2(ends[1], STDOUT_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    ::execl(program.c_str(), program.c_str(), kAskArgument, number.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  const std::string said = read_all(ends[0]);
  ::close(ends[0]);
  ::kill(-pid, SIGKILL);  // with its helpers; by now it has answered, or never will
  int status = 0;
  ::waitpid(pid, &status, 0);
  const auto cut = said.find(kSeparator);
  if (cut == std::string::npos) return {kFailed, "no answer within a minute, or its process died"};
  return {said.substr(0, cut), said.substr(cut + 1, said.find('\n', cut) - cut - 1)};
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char each : text) {
    if (each == '"' || each == '\\') result += '\\';
    result += static_cast<unsigned char>(each) < 0x20 ? ' ' : each;
  }
  return result + "\"";
}

void print_table(const Question& question, const Answer& answer) {
  std::printf("| %d | %s | %s | %s |\n", question.number, question.text, answer.text.c_str(),
              answer.detail.c_str());
  std::fflush(stdout);
}

std::string json_row(const Question& question, const Answer& answer) {
  return "{\"number\": " + std::to_string(question.number) +
         ", \"question\": " + quoted(question.text) + ", \"answer\": " + quoted(answer.text) +
         ", \"detail\": " + quoted(answer.detail) + "}";
}

int run(bool json, std::span<const int> numbers) {
  const Answer device = ask_in_a_process({0, "", the_device});
  if (device.text == kFailed) {
    std::fprintf(stderr, "gpu-probe: %s\n", device.detail.c_str());
    return 3;
  }
  std::string rows;
  bool failed = false;
  if (!json) std::printf("%s, %s\n\n%s", device.text.c_str(), device.detail.c_str(), kTableHead);
  for (const Question& each : questions()) {
    if (!numbers.empty() && std::ranges::find(numbers, each.number) == numbers.end()) continue;
    const Answer answer = ask_in_a_process(each);
    failed = failed || answer.text == kFailed;
    if (json)
      rows += (rows.empty() ? "\n " : ",\n ") + json_row(each, answer);
    else
      print_table(each, answer);
  }
  if (json)
    std::printf("{\"device\": %s, \"driver\": %s, \"emulated\": %s, \"rows\": [%s\n]}\n",
                quoted(device.text).c_str(), quoted(device.detail).c_str(),
                device.detail.ends_with(kEmulated) ? "true" : "false", rows.c_str());
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace tensorferry::gpu_probe

int main(int argc, char** argv) {
  using namespace tensorferry::gpu_probe;
  const std::vector<std::string_view> words(argv + 1, argv + argc);
  if (words.size() == 2 && (words[0] == kHelperArgument || words[0] == kNewNamespaceArgument))
    return run_helper(words[0], words[1]);
  bool json = false;
  std::vector<int> numbers;
  for (const std::string_view word : words) {
    const int number = std::atoi(std::string(word).c_str());
    if (word == "--json")
      json = true;
    else if (number > 0)
      numbers.push_back(number);
    else if (word != kAskArgument && word != "0")
      return std::fprintf(stderr, "gpu-probe [--json] [NUMBER...]\n"), 2;
  }
  if (words.size() == 2 && words[0] == kAskArgument) answer_alone(numbers.empty() ? 0 : numbers[0]);
  return run(json, numbers);
}
