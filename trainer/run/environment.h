// environment.json of a run folder: where and with what the newest process of the run trains. Facts about the machine
// and the program only; no environment variables, which may hold secrets.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "trainer/run/train_state.h"

namespace cadre::trainer {

// `commit`: of the source that the program was built from, empty when unknown.
nlohmann::ordered_json environment(const TrainState& state, const std::string& commit);

}  // namespace cadre::trainer
