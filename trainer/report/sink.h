// Who else hears the lines of metrics.jsonl while a run goes on: TensorBoard's event file, the Prometheus endpoint.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace cadre::report {

class MetricSink {
 public:
  virtual ~MetricSink() = default;
  // Called by the training thread; errors stay inside (a warning once), since watching must not end a run.
  virtual void line(const nlohmann::json& line) = 0;
  // The run goes back: what was said about steps after this one does not hold.
  virtual void rewind(uint64_t /*step*/) {}
};

// One number of a line. `part` is the key inside a map (a domain's name), empty for a plain number.
struct Scalar {
  std::string name, part;
  double value;
};
// The numbers of a train or eval line in the order of its keys; lists, texts, null and `step` are left out.
std::vector<Scalar> scalars(const nlohmann::json& line);

}  // namespace cadre::report
