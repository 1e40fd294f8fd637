// Small replicated state that is not a parameter (selection biases, the load of the last batch), for the
// checkpoint.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace cadre::moe {

using StateDict = std::map<std::string, std::vector<double>>;  // by global name: "layers.3.moe.router.bias"

// The entry `name`; throws Error(kCheckpoint) when it is missing or not of this size.
const std::vector<double>& state_vector(const StateDict& state, const std::string& name, size_t size);

}  // namespace cadre::moe
