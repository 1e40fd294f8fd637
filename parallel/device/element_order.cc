#include "parallel/device/element_order.h"

#include <cassert>
#include <cstddef>

namespace cadre::device {

ElementOrder::ElementOrder(const std::vector<int64_t>& shape, int axis, int parts)
    : parts_(axis == 0 ? 1 : parts), numel_(1) {
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (int(i) == axis) outer_ = numel_;
    numel_ *= shape[i];
  }
  if (parts_ == 1) outer_ = 1;  // equal orders compare equal
  assert(shape[std::size_t(axis)] % parts == 0);
  run_ = numel_ / outer_ / parts_;
}

int64_t ElementOrder::plain(int64_t i) const {
  if (parts_ == 1) return i;
  const int64_t part = i / (outer_ * run_), row = i / run_ % outer_;
  return (row * parts_ + part) * run_ + i % run_;
}

int64_t ElementOrder::from_plain(int64_t i) const {
  if (parts_ == 1) return i;
  const int64_t row = i / (parts_ * run_), part = i / run_ % parts_;
  return (part * outer_ + row) * run_ + i % run_;
}

}  // namespace cadre::device
