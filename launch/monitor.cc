#include "launch/monitor.h"

#include <fmt/format.h>

#include <algorithm>

namespace cadre::launch {
namespace {

namespace fs = std::filesystem;
using base::BoxContents;
using base::CollectiveRecord;

std::string bytes_text(uint64_t bytes) {
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  return bytes < 10'000'000 ? fmt::format("{:.1f} kB", double(bytes) * 1e-3)
                            : fmt::format("{:.1f} MB", double(bytes) * 1e-6);
}

std::string text_of(const CollectiveRecord& c, int64_t last_beat_ns) {
  const std::string name = fmt::format("{} '{}', {}", c.verb, c.label, bytes_text(c.bytes));
  return c.done ? name
                : fmt::format("{}, begun {:.1f} s before the last beat", name,
                              double(last_beat_ns - c.started_ns) * 1e-9);
}

}  // namespace

Monitor::Monitor(fs::path folder, WatchOptions options, std::function<void(const std::string&)> tell)
    : folder_(std::move(folder)), options_(options), tell_(std::move(tell)), last_beat_(Clock::now()) {}

std::string Monitor::look(Clock::time_point now) {
  const std::vector<BoxContents> boxes = read_boxes(folder_);
  uint64_t beats = 0;
  for (const BoxContents& box : boxes) {
    beats += box.beats;
    step_ = std::max(step_, box.step);
  }
  if (beats != beats_) last_beat_ = now;
  beats_ = beats;
  name_stragglers(boxes);
  const double still = std::chrono::duration<double>(now - last_beat_).count();
  if (options_.hang_seconds <= 0 || still < options_.hang_seconds) return "";
  return fmt::format("no rank has moved for {:.0f} s, at step {}", still, step_);
}

void Monitor::name_stragglers(const std::vector<BoxContents>& boxes) {
  if (boxes.size() < 2) return;
  std::vector<double> busy;
  for (const BoxContents& box : boxes) busy.push_back(box.busy_ms);
  const auto middle = busy.begin() + long((busy.size() - 1) / 2);  // of two, the faster one
  std::nth_element(busy.begin(), middle, busy.end());
  constexpr double kNoise = 5;  // ms: rank 0 also writes metrics, which shows in tiny steps
  for (const BoxContents& box : boxes) {
    if (*middle <= 0 || box.busy_ms <= options_.straggler_factor * *middle ||
        box.busy_ms < *middle + kNoise) {
      slow_.erase(box.rank);
      continue;
    }
    Slow& slow = slow_.try_emplace(box.rank, Slow{box.step, false}).first->second;
    if (slow.told || box.step < slow.since_step + uint64_t(options_.straggler_steps)) continue;
    slow.told = true;
    tell_(fmt::format(
        "rank {} on {} is slow: {:.1f} ms of its own work a step, {:.1f} ms in the median, for {} steps",
        box.rank, box.host, box.busy_ms, *middle, box.step - slow.since_step));
  }
}

std::vector<BoxContents> read_boxes(const fs::path& folder) {
  std::vector<BoxContents> boxes;
  int ranks = 1;
  for (int rank = 0; rank < ranks; ++rank) {
    auto box = base::read_box(folder / base::box_name(rank));
    if (!box || box->rank != rank) continue;
    constexpr int kMostRanks = 1 << 16;  // whatever the file says
    if (rank == 0) ranks = std::clamp(box->ranks, 1, kMostRanks);
    boxes.push_back(std::move(*box));
  }
  return boxes;
}

std::string post_mortem(const std::vector<BoxContents>& boxes, bool with_history) {
  std::string out;
  for (const BoxContents& box : boxes) {
    out += fmt::format("rank {} on {} (pid {}): step {}, {}\n", box.rank, box.host, box.pid, box.step,
                       base::name_of(box.phase));
    for (const CollectiveRecord& c : box.collectives) {
      if (!c.done) out += "  waited in " + text_of(c, box.last_beat_ns) + "\n";
    }
    for (const std::string& line : box.lines) out += "  | " + line + "\n";
    if (!with_history) continue;
    for (const CollectiveRecord& c : box.collectives) {
      out += fmt::format("  #{} {} {}\n", c.number, c.done ? "done" : "open", text_of(c, box.last_beat_ns));
    }
  }
  return out;
}

}  // namespace cadre::launch
