// Cosines and sines of rotary positions, made once in double and for as many positions as are asked for.
// How fast each pair turns is rope_scaling.h's business.
#pragma once

#include <cmath>
#include <vector>

#include "parallel/device/memory.h"
#include "trainer/model/rope_scaling.h"

namespace cadre::trainer {

template <class W>
class RopeTable {
 public:
  RopeTable(const RopeConfig& config, int64_t head_dim) : config_(config), head_dim_(head_dim) {}

  // Makes room for `positions`; views given out before are then stale. Not inside a step. Under a rule that
  // depends on the length the table is always for exactly this many, so that results do not depend on what
  // was covered before.
  void cover(int64_t positions, device::Queue& queue) {
    if (depends_on_length(config_) ? positions == positions_ : positions <= positions_) return;
    queue.wait();  // nothing reads the old table any more
    positions_ = positions;
    memory_ = device::Buffer(queue.kind(), size_t(positions * head_dim_) * sizeof(W));
    std::vector<W> table(size_t(positions * head_dim_));
    const int64_t half = head_dim_ / 2;
    const RopeFrequencies frequencies = rope_frequencies(config_, head_dim_, positions);
    W* row = table.data();
    for (int64_t p = 0; p < positions; ++p, row += head_dim_) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(p) * frequencies.radians[i];
        row[i] = W(frequencies.amplitude * std::cos(angle));
        row[half + i] = W(frequencies.amplitude * std::sin(angle));
      }
    }
    queue.upload(table.data(), memory_.data(), table.size() * sizeof(W));
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
