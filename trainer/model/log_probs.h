// The log-probabilities of a micro-batch's targets, on their way from the device to the host. Only tokens that count
// in the loss travel.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/device/view.h"

namespace cadre::trainer {

template <class W>
struct LogProbs {
  std::vector<int32_t> index;  // tokens that count, rising
  std::vector<W> live;         // theirs; the queue writes here until its next wait()
  std::vector<W> all;          // (N)

  // (N), 0 for tokens that do not count. After the queue's wait().
  device::View<const W, 1> finish() {
    std::fill(all.begin(), all.end(), W(0));
    for (size_t i = 0; i < index.size(); ++i) all[size_t(index[i])] = live[i];
    return {all.data(), {int64_t(all.size())}};
  }
};

}  // namespace cadre::trainer
