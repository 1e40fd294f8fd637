// Walks a batch by segment: the sequences of post-training, packed or not.
#pragma once

#include <string_view>
#include <vector>

#include "parallel/base/batch.h"
#include "parallel/base/errors.h"

namespace cadre::optim {

// Calls body(segment, live) for every segment in order of appearance: its number over the batch, and the
// positions of its trained tokens.
template <class Body>
void for_each_segment(const Batch& batch, Body body) {
  std::vector<size_t> live;
  size_t number = 0;
  for (int64_t row = 0; row < batch.num_sequences; ++row) {
    const int64_t end = (row + 1) * batch.seq_len;
    for (int64_t i = row * batch.seq_len; i < end;) {
      const int32_t segment = batch.segment[size_t(i)];
      live.clear();
      for (; i < end && batch.segment[size_t(i)] == segment; ++i) {
        if (batch.loss_mask[size_t(i)] != 0) live.push_back(size_t(i));
      }
      if (segment >= 0) body(number++, live);
    }
  }
}

// An objective's inputs come from a user's file or a loop's buffers: say which one is missing.
inline void require_array(const std::vector<double>& array, size_t count, std::string_view name,
                          std::string_view why) {
  require(array.size() == count, ExitCode::kData, "the batch has {} values of {}, expected {}: {}",
          array.size(), name, count, why);
}

}  // namespace cadre::optim
