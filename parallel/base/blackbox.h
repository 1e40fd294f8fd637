// What a rank is doing, kept where others can read it even after a SIGKILL: a small file in the run folder, mapped
// into memory. It holds the step and phase (heartbeat), the last collectives (flight recorder) and the last lines of
// the log. Writing costs a few stores; the launcher reads the files to name stragglers, to notice that nothing moves
// any more, and to tell what each rank did when a run ended.
//
// A box belongs to the thread that opened it: the functions below do nothing on other threads, and nothing where no
// box was opened, so that library code calls them without asking. Only the rank's own thread writes; readers in other
// processes may see a line or a label that is being changed, never anything outside the file.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cadre::base {

enum class Phase : uint32_t {
  kStart,
  kData,
  kForward,
  kBackward,
  kReduce,
  kUpdate,
  kEvaluate,
  kCheckpoint,
  kEnd
};
const char* name_of(Phase phase);

// Hooks, called by the thread that owns the box.
void enter(Phase phase);
void at_step(uint64_t step);           // steps taken so far; also the end of a step's busy time
void remember(std::string_view text);  // a line for the post-mortem, cut to what fits
// A collective begins; returns its number, or 0 without a box. `waited`: time spent waiting for it.
uint64_t collective_started(const char* verb, std::string_view label, uint64_t bytes);
void collective_done(uint64_t number, std::chrono::nanoseconds waited);

// For threads that see collectives of this rank end while its own thread goes on. Made on the rank's thread; does
// nothing where that has no box, and must not outlive it.
class BoxMarks {
 public:
  BoxMarks() = default;
  explicit BoxMarks(void* memory) : memory_(memory) {}
  void done(uint64_t number) const;

 private:
  void* memory_ = nullptr;
};
BoxMarks box_marks();

struct CollectiveRecord {
  uint64_t number = 0;
  std::string verb, label;
  uint64_t bytes = 0;
  bool done = false;
  int64_t started_ns = 0;  // the writer's monotonic clock
};
struct BoxContents {
  int rank = 0, ranks = 0, pid = 0;
  std::string host;
  Phase phase = Phase::kStart;
  uint64_t step = 0;
  uint64_t beats = 0;  // rises with every phase and collective: standing still means that the rank hangs
  double busy_ms = 0;  // a step's time without waiting for other ranks, moving average
  int64_t last_beat_ns = 0;
  std::vector<CollectiveRecord> collectives;  // the newest kCollectives, oldest first
  std::vector<std::string> lines;             // the newest log lines, oldest first
};
inline constexpr size_t kCollectives = 64;

// Opens (creates or truncates) the file and makes it this thread's box until destroyed. Also gives every line of
// spdlog's default logger to it. Throws Error(kCheckpoint).
class Blackbox {
 public:
  Blackbox(const std::filesystem::path& file, int rank, int ranks);
  ~Blackbox();
  Blackbox(const Blackbox&) = delete;
  Blackbox& operator=(const Blackbox&) = delete;

 private:
  void* memory_ = nullptr;
};

// Nothing when the file is missing, of another version or damaged. Sizes and texts inside are not trusted.
std::optional<BoxContents> read_box(const std::filesystem::path& file);
std::string box_name(int rank);  // "rank-00003.box"

// Something that wants to know of every phase and collective of the calling thread, for profiles. Null: nobody.
struct ActivityListener {
  std::function<void(Phase)> phase;
  std::function<void(uint64_t number, const char* verb, std::string_view label, uint64_t bytes)> started;
  std::function<void(uint64_t number)> done;
};
void set_activity_listener(const ActivityListener* listener);

}  // namespace cadre::base
