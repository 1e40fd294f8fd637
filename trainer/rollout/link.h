// Between the ranks that train and those that only sample. Both post a bell, which rings when all have; samplers go on
// until it does. Then they trade: what trainer 0 says goes to all, and what samplers have finished goes to the trainers.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "parallel/comm/communicator.h"
#include "parallel/device/param_table.h"
#include "trainer/rollout/rollout.h"

namespace cadre::trainer {

// What trainers say in a trade.
struct Orders {
  uint32_t version = 0;         // of the weights from here on
  bool weights = false;         // new ones follow
  bool collect = false;         // send what is not finished too, and go on with it
  bool reset = false;           // forget everything first
  bool starving = false;        // ring when something is finished
  bool stop = false;            // the run is over
  nlohmann::json state;         // Network::save_state, with new weights
  std::vector<Rollout> groups;  // to sample, or to go on with

  std::string text() const;
  static Orders parse(const std::string& text);  // throws Error(kComm)
};

class Bell {
 public:
  explicit Bell(comm::Communicator& all) : all_(all), heard_(size_t(all.size())) {
    for (int r = 0; r < all.size(); ++r) counts_.push_back(1), places_.push_back(r);
  }
  void post();
  bool posted() const { return posted_; }
  bool rings() { return posted_ && request_.test(); }
  void wait();  // posts if need be

 private:
  comm::Communicator& all_;  // borrowed
  std::byte own_{};
  std::vector<std::byte> heard_;
  std::vector<int64_t> counts_, places_;
  comm::Request request_;
  bool posted_ = false;
};

// Where a rank keeps its model; all borrowed.
struct ModelValues {
  device::Queue* queue = nullptr;
  device::FlatParams<float>* store = nullptr;
  const device::ParamLayout* layout = nullptr;
  int expert_rank = 0, expert_ranks = 1;
  // Waits for values that are still on their way from the ranks that updated them; empty where none can be.
  std::function<void()> arrive = {};
};
// From the trainers, who are ranks 0, 1, ... of `all`, to the others. Collective over all.
void pass_values(comm::Communicator& all, const ModelValues& own, bool receives);

}  // namespace cadre::trainer
