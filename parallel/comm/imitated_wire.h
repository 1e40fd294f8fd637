// The wire between the ranks of an imitated world (make_imitated_world): how long what goes between them would take.
#pragma once

#include <atomic>

namespace cadre::comm {

struct ImitatedWire {
  // To a rank, in one direction; 0: nothing takes time. It may change while nothing is under way.
  std::atomic<double> bytes_per_s = 0;
};

}  // namespace cadre::comm
