#include "trainer/report/sink.h"

namespace cadre::report {

std::vector<Scalar> scalars(const nlohmann::json& line) {
  std::vector<Scalar> all;
  for (const auto& [key, value] : line.items()) {
    if (key == "step") continue;
    if (value.is_number()) all.push_back({key, "", value.get<double>()});
    if (!value.is_object()) continue;
    for (const auto& [part, number] : value.items()) {
      if (number.is_number()) all.push_back({key, part, number.get<double>()});
    }
  }
  return all;
}

}  // namespace cadre::report
