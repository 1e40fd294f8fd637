// What the threads of one world share: mailboxes, by group of ranks, and the news that a rank failed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace cadre::comm {

// What a rank sends another in one collective. The receiver compares the verb and the size with its own call's, so that
// ranks that make different calls are told.
struct Message {
  const char* verb;   // "all_to_all", ...
  std::string label;  // of the sender's call, for the message
  std::vector<std::byte> bytes;
};

struct Mailbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::map<std::pair<uint64_t, int>, Message> messages;  // by call number and sender
};

struct ThreadGroup {
  explicit ThreadGroup(int size) : boxes(size) {}
  std::vector<Mailbox> boxes;  // by rank in the group
};

class Hub {
 public:
  explicit Hub(int size) : size_(size) {}
  int size() const { return size_; }  // ranks of the world
  bool failed() const { return failed_; }

  // The first rank to come makes the group.
  std::shared_ptr<ThreadGroup> group(std::pair<int, int> split_and_color, int members) {
    std::lock_guard lock(mutex_);
    std::shared_ptr<ThreadGroup>& group = groups_[split_and_color];
    if (!group) group = std::make_shared<ThreadGroup>(members);
    return group;
  }

  // A rank failed: all that wait at a box wake and find failed().
  void fail() {
    failed_ = true;
    std::lock_guard lock(mutex_);
    for (auto& [key, group] : groups_) {
      for (Mailbox& box : group->boxes) {
        { std::lock_guard box_lock(box.mutex); }
        box.arrived.notify_all();
      }
    }
  }

 private:
  const int size_;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::map<std::pair<int, int>, std::shared_ptr<ThreadGroup>> groups_;
};

}  // namespace cadre::comm
