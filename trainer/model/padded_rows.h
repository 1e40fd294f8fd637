// How many rows a pass of generation has on a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

namespace cadre::trainer {

// A product has a plan for each number of rows, which a GPU takes milliseconds to find: there a pass has one of few
// numbers, at least `rows` and at most `most`, and padding makes up the rest.
inline int64_t padded_rows(int64_t rows, int64_t most) {
  const int64_t step = rows <= 64 ? 8 : rows <= 512 ? 64 : 512;
  return std::min(most, (rows + step - 1) / step * step);
}

}  // namespace cadre::trainer
