#include "optim/evaluation.h"

#include "optim/evaluation_input.h"
#include "optim/sequence_metrics.h"

namespace cadre::optim {
namespace {

using Json = nlohmann::ordered_json;

// Pairs are answered by side, as they were asked.
Json by_side(const std::vector<Json>& values, bool pairs) {
  if (!pairs) return Json(values);
  Json out = {{"chosen", Json::array()}, {"rejected", Json::array()}};
  for (size_t i = 0; i < values.size(); ++i) out[i % 2 == 0 ? "chosen" : "rejected"].push_back(values[i]);
  return out;
}

Json gradients(const EvaluationInput& in, const std::vector<double>& dlogp) {
  std::vector<Json> rows;
  for (size_t r = 0; r < in.lengths.size(); ++r) {
    const auto begin = dlogp.begin() + int64_t(r) * in.batch.seq_len;
    rows.push_back(std::vector<double>(begin, begin + int64_t(in.lengths[r])));
  }
  return by_side(rows, in.pairs);
}

Json column(const std::vector<SequenceRecord>& records, double SequenceRecord::*member, bool pairs) {
  std::vector<Json> values;
  for (const SequenceRecord& r : records) values.push_back(r.*member);
  return by_side(values, pairs);
}

}  // namespace

Json evaluate_objective(base::Section section, const std::string& text, const std::string& source) {
  const auto objective = make_objective<double>(section);
  EvaluationInput in = read_evaluation(text, source, objective->inputs());
  std::vector<double> dlogp(in.logp.size());
  const std::array<int64_t, 1> shape = {int64_t(in.logp.size())};
  double loss = 0;
  try {
    loss = objective->loss_and_grad({in.logp.data(), shape}, in.batch, in.counts, {dlogp.data(), shape});
  } catch (const Error& error) {
    throw Error(error.code(), source + ": " + error.what());
  }
  const std::vector<SequenceRecord> records = objective->take_records();
  const bool policy = objective->inputs().advantage;
  Json out = {{"loss", loss}, {"grad", gradients(in, dlogp)}};
  for (const char* key : {"advantage", "log_w", "phi"}) out[key] = nullptr;
  out["metrics"] = Json::object();
  if (!policy && !in.pairs) return out;
  out["advantage"] = column(records, &SequenceRecord::advantage, in.pairs);
  out["log_w"] = column(records, &SequenceRecord::log_w, in.pairs);
  if (policy) out["phi"] = column(records, &SequenceRecord::phi, false);
  for (const auto& [name, value] : policy ? policy_metrics(records) : pair_metrics(records))
    out["metrics"][name] = value;
  return out;
}

}  // namespace cadre::optim
