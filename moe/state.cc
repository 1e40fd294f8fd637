#include "moe/state.h"

#include "parallel/base/errors.h"

namespace cadre::moe {

const std::vector<double>& state_vector(const StateDict& state, const std::string& name, size_t size) {
  const auto found = state.find(name);
  require(found != state.end(), ExitCode::kCheckpoint,
          "the checkpoint lacks '{}', which this run's moe section needs; was it written with another router "
          "or balance?",
          name);
  require(found->second.size() == size, ExitCode::kCheckpoint,
          "'{}' has {} values in the checkpoint, expected {}; set moe.num_experts as it was", name,
          found->second.size(), size);
  return found->second;
}

}  // namespace cadre::moe
