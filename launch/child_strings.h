// What a process that is started gets, in the form that exec and posix_spawn take.
#pragma once

#include <string>
#include <vector>

namespace cadre::launch {

// The strings and a null behind them; they have to outlive the result.
std::vector<char*> pointers(std::vector<std::string>& strings);
// This process's environment with NAME=VALUE in place of what has the same name.
std::vector<std::string> environment_with(const std::vector<std::string>& added);

}  // namespace cadre::launch
