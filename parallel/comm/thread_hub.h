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

struct Message {
  const char* verb;
  std::string label;
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
  int size() const { return size_; }
  bool failed() const { return failed_; }

  // The first rank to come makes the group.
  std::shared_ptr<ThreadGroup> group(std::pair<int, int> split_and_color, int members) {
    std::lock_guard lock(mutex_);
    std::shared_ptr<ThreadGroup>& group = groups_[split_and_color];
    if (!group) group = std::make_shared<ThreadGroup>(members);
    return group;
  }

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
