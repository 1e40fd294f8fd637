// Which pages of a cache are in use, and by how many sequences: a page that several share is free when the last drops it.
#pragma once

#include <cassert>
#include <cstdint>
#include <vector>

namespace cadre::trainer {

class PagePool {
 public:
  explicit PagePool(int64_t pages) : users_(size_t(pages), 0) {
    for (int64_t p = pages; p-- > 0;) free_.push_back(int32_t(p));
  }
  int64_t free() const { return int64_t(free_.size()); }
  int64_t size() const { return int64_t(users_.size()); }
  // Sequences that have the page; 0: it is free.
  int users(int32_t page) const { return users_[size_t(page)]; }

  // A free page, for one user. The caller has seen to it that there is one: free() > 0.
  int32_t take() {
    assert(!free_.empty());
    const int32_t page = free_.back();
    free_.pop_back();
    users_[size_t(page)] = 1;
    return page;
  }
  // One user more, and one less, of a page in use.
  void share(int32_t page) { ++users_[size_t(page)]; }
  void drop(int32_t page) {
    assert(users_[size_t(page)] > 0);
    if (--users_[size_t(page)] == 0) free_.push_back(page);
  }

 private:
  std::vector<int> users_;
  std::vector<int32_t> free_;  // the last one goes first
};

}  // namespace cadre::trainer
