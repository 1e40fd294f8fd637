// The order in which a tensor's elements are counted where its parts lie on different ranks: part after part of one axis, each
// part in row-major order. With one part, or parts of axis 0, that is row-major order itself, called plain here.
#pragma once

#include <cstdint>
#include <vector>

namespace cadre::device {

class ElementOrder {
 public:
  ElementOrder() = default;
  // parts divides shape[axis].
  ElementOrder(const std::vector<int64_t>& shape, int axis, int parts);
  int parts() const { return parts_; }
  // The plain number of element i of this order, and back.
  int64_t plain(int64_t i) const;
  int64_t from_plain(int64_t i) const;
  // So many elements from i on (of either numbering) follow each other in both.
  int64_t run_from(int64_t i) const { return parts_ == 1 ? numel_ - i : run_ - i % run_; }
  bool operator==(const ElementOrder&) const = default;

 private:
  int parts_ = 1;
  int64_t numel_ = 0, outer_ = 1;  // rows before the axis
  int64_t run_ = 1;                // elements of one row's part
};

}  // namespace cadre::device
