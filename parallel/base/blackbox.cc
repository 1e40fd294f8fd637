#include "parallel/base/blackbox.h"

#include <fcntl.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "parallel/base/files.h"

namespace cadre::base {
namespace {

constexpr char kMagic[8] = {'c', 'a', 'd', 'r', 'e', 'b', 'x', '1'};
constexpr size_t kLines = 12, kLineBytes = 240, kLabelBytes = 40, kVerbBytes = 16;

struct Slot {
  uint64_t number, bytes;
  int64_t started_ns;
  uint32_t done, unused;
  char verb[kVerbBytes], label[kLabelBytes];
};
struct Memory {  // as it lies in the file
  char magic[8];
  int32_t rank, ranks, pid;
  std::atomic<uint32_t> phase;
  std::atomic<uint64_t> step, beats, collectives, lines;
  std::atomic<int64_t> last_beat_ns;
  std::atomic<double> busy_ms;
  char host[64];
  Slot slots[kCollectives];
  char text[kLines][kLineBytes];
};
static_assert(std::atomic<double>::is_always_lock_free && std::atomic<uint64_t>::is_always_lock_free);

struct Recorder {
  Memory* memory = nullptr;
  int64_t step_start_ns = 0, waited_ns = 0;
  uint64_t number = 0;  // of collectives; counted also when only a listener is there
  const ActivityListener* listener = nullptr;
};
thread_local Recorder recorder;

int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);  // a jump of the wall clock does not matter
  return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

template <size_t kSize>
void copy_text(char (&into)[kSize], std::string_view text) {
  const size_t n = std::min(kSize - 1, text.size());
  std::memcpy(into, text.data(), n);
  into[n] = '\0';
}
template <size_t kSize>
std::string text_of(const char (&from)[kSize]) {
  return {from, strnlen(from, kSize)};
}

void beat(Memory& memory) {
  memory.last_beat_ns.store(now_ns(), std::memory_order_relaxed);
  memory.beats.fetch_add(1, std::memory_order_relaxed);
}

// Other threads log too, hence the lock; the box's thread writes its own lines through the same one.
std::mutex& line_lock() {
  static std::mutex lock;
  return lock;
}
void add_line(Memory& memory, std::string_view text) {
  const std::lock_guard guard(line_lock());
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  const uint64_t at = memory.lines.load(std::memory_order_relaxed);
  copy_text(memory.text[at % kLines], text);
  memory.lines.store(at + 1, std::memory_order_relaxed);
}

class BoxSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit BoxSink(Memory* memory) : memory_(memory) {}
  void close() {
    const std::lock_guard guard(mutex_);
    memory_ = nullptr;
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (memory_ == nullptr) return;
    spdlog::memory_buf_t buffer;
    formatter_->format(message, buffer);
    add_line(*memory_, {buffer.data(), buffer.size()});
  }
  void flush_() override {}
  Memory* memory_;
};

// The sink of this process's box; there is one box a process outside of tests.
std::shared_ptr<BoxSink>& box_sink() {
  static std::shared_ptr<BoxSink> sink;
  return sink;
}

}  // namespace

const char* name_of(Phase phase) {
  static constexpr const char* kNames[] = {"start",  "data",     "forward",    "backward", "reduce",
                                           "update", "evaluate", "checkpoint", "end"};
  return uint32_t(phase) <= uint32_t(Phase::kEnd) ? kNames[uint32_t(phase)] : "?";
}

void enter(Phase phase) {
  if (recorder.listener != nullptr) recorder.listener->phase(phase);
  if (recorder.memory == nullptr) return;
  recorder.memory->phase.store(uint32_t(phase), std::memory_order_relaxed);
  beat(*recorder.memory);
}

void at_step(uint64_t step) {
  if (recorder.memory == nullptr) return;
  Memory& memory = *recorder.memory;
  const int64_t now = now_ns();
  if (recorder.step_start_ns > 0) {
    constexpr double kWeight = 0.1;
    const double busy = double(now - recorder.step_start_ns - recorder.waited_ns) * 1e-6;
    const double before = memory.busy_ms.load(std::memory_order_relaxed);
    memory.busy_ms.store(before == 0 ? busy : before + kWeight * (busy - before), std::memory_order_relaxed);
  }
  recorder.step_start_ns = now;
  recorder.waited_ns = 0;
  memory.step.store(step, std::memory_order_relaxed);
  beat(memory);
}

void remember(std::string_view text) {
  if (recorder.memory != nullptr) add_line(*recorder.memory, text);
}

uint64_t collective_started(const char* verb, std::string_view label, uint64_t bytes) {
  if (recorder.memory == nullptr && recorder.listener == nullptr) return 0;
  const uint64_t number = ++recorder.number;
  if (recorder.listener != nullptr) recorder.listener->started(number, verb, label, bytes);
  if (recorder.memory == nullptr) return number;
  Slot& slot = recorder.memory->slots[number % kCollectives];
  std::atomic_ref(slot.number).store(number);
  slot.bytes = bytes;
  std::atomic_ref(slot.done).store(0);
  copy_text(slot.verb, verb);
  copy_text(slot.label, label);
  beat(*recorder.memory);
  slot.started_ns = recorder.memory->last_beat_ns.load(std::memory_order_relaxed);
  recorder.memory->collectives.store(number, std::memory_order_relaxed);
  return number;
}

void collective_done(uint64_t number, std::chrono::nanoseconds waited) {
  if (number == 0) return;
  recorder.waited_ns += waited.count();
  if (recorder.listener != nullptr) recorder.listener->done(number);
  if (recorder.memory == nullptr) return;
  Slot& slot = recorder.memory->slots[number % kCollectives];
  if (slot.number == number) std::atomic_ref(slot.done).store(1);
  beat(*recorder.memory);
}

BoxMarks box_marks() {
  return BoxMarks(recorder.memory);
}

// The slot may be taken again at this moment: its owner writes `done` = 0 after the new number.
void BoxMarks::done(uint64_t number) const {
  if (memory_ == nullptr || number == 0) return;
  Memory& memory = *static_cast<Memory*>(memory_);
  Slot& slot = memory.slots[number % kCollectives];
  if (std::atomic_ref(slot.number).load() == number) std::atomic_ref(slot.done).store(1);
  beat(memory);
}

void set_activity_listener(const ActivityListener* listener) {
  recorder.listener = listener;
}

Blackbox::Blackbox(const std::filesystem::path& file, int rank, int ranks) {
  {
    // Written and not only made long: on a full disk a page without a block would end the process with SIGBUS.
    FileWriter writer(file, ExitCode::kCheckpoint);
    writer.write(std::string(sizeof(Memory), '\0'));
    writer.close();
  }
  const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
  require(fd >= 0, ExitCode::kCheckpoint, "cannot open {}: {}", file.string(), std::strerror(errno));
  memory_ = ::mmap(nullptr, sizeof(Memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  require(memory_ != MAP_FAILED, ExitCode::kCheckpoint, "cannot map {}: {}", file.string(),
          std::strerror(errno));
  Memory& memory = *static_cast<Memory*>(memory_);
  memory.rank = rank;
  memory.ranks = ranks;
  memory.pid = int32_t(::getpid());
  char host[sizeof memory.host] = "?";
  (void)::gethostname(host, sizeof host - 1);
  copy_text(memory.host, host);
  std::memcpy(memory.magic, kMagic, sizeof kMagic);
  recorder = {.memory = &memory, .listener = recorder.listener};
  beat(memory);
  box_sink() = std::make_shared<BoxSink>(&memory);
  spdlog::default_logger()->sinks().push_back(box_sink());
}

Blackbox::~Blackbox() {
  if (box_sink()) box_sink()->close();
  recorder = {.listener = recorder.listener};
  ::munmap(memory_, sizeof(Memory));
}

std::optional<BoxContents> read_box(const std::filesystem::path& file) {
  std::string bytes;
  try {
    bytes = read_file(file, ExitCode::kData, sizeof(Memory));
  } catch (const Error&) {
    return std::nullopt;
  }
  if (bytes.size() != sizeof(Memory) || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0)
    return std::nullopt;
  auto copy = std::make_unique<Memory>();
  std::memcpy(static_cast<void*>(copy.get()), bytes.data(), sizeof(Memory));
  const Memory& m = *copy;
  BoxContents box{.rank = m.rank,
                  .ranks = m.ranks,
                  .pid = m.pid,
                  .host = text_of(m.host),
                  .phase = Phase(m.phase.load()),
                  .step = m.step,
                  .beats = m.beats,
                  .busy_ms = m.busy_ms,
                  .last_beat_ns = m.last_beat_ns,
                  .collectives = {},
                  .lines = {}};
  for (const Slot& slot : m.slots) {
    if (slot.number == 0) continue;
    box.collectives.push_back(
        {slot.number, text_of(slot.verb), text_of(slot.label), slot.bytes, slot.done != 0, slot.started_ns});
  }
  std::sort(box.collectives.begin(), box.collectives.end(),
            [](const auto& a, const auto& b) { return a.number < b.number; });
  const uint64_t lines = m.lines, shown = std::min<uint64_t>(lines, kLines);
  for (uint64_t i = lines - shown; i < lines; ++i) box.lines.push_back(text_of(m.text[i % kLines]));
  return box;
}

std::string box_name(int rank) {
  return fmt::format("rank-{:05}.box", rank);
}

}  // namespace cadre::base
