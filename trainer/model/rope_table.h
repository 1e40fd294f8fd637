// The angles of rotary positions: cosines and sines of p * theta^(-2i/h) for p < positions (Su et al. 2021,
// eq. 15), made once in double. Long-context scaling rules belong here.
#pragma once

#include <cmath>

#include "parallel/device/memory.h"
#include "trainer/model/config.h"

namespace cadre::trainer {

template <class W>
class RopeTable {
 public:
  RopeTable(const RopeConfig& config, int64_t head_dim) : config_(config), head_dim_(head_dim) {}

  // Makes room for `positions`; views given out before are then stale. Not inside a step.
  void cover(int64_t positions, device::DeviceKind device) {
    if (positions <= positions_) return;
    positions_ = positions;
    memory_ = device::Buffer(device, size_t(positions * head_dim_) * sizeof(W));
    const int64_t half = head_dim_ / 2;
    W* row = reinterpret_cast<W*>(memory_.data());
    for (int64_t p = 0; p < positions; ++p, row += head_dim_) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(p) * std::pow(config_.theta, -2.0 * double(i) / double(head_dim_));
        row[i] = W(std::cos(angle));
        row[half + i] = W(std::sin(angle));
      }
    }
  }
  device::View<const W, 2> view() const {
    return {reinterpret_cast<const W*>(memory_.data()), {positions_, head_dim_}};
  }

 private:
  RopeConfig config_;
  int64_t head_dim_, positions_ = 0;
  device::Buffer memory_;
};

}  // namespace cadre::trainer
