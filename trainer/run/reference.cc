#include "trainer/run/reference.h"

#include <algorithm>
#include <cstring>

namespace cadre::trainer {
namespace {

void freeze(const ModelState& model, ModelState& reference) {
  constexpr int64_t kChunk = int64_t(4) << 20;
  std::vector<Real> values;
  for (const device::Group group : {device::Group::kDense, device::Group::kExpert}) {
    const int64_t size = model.layout.group_size(group);
    for (int64_t begin = 0; begin < size; begin += kChunk) {
      values.resize(size_t(std::min(kChunk, size - begin)));
      model.store.get(model.queue, group, begin, values);
      reference.store.set(reference.queue, group, begin, values);
    }
  }
  reference.decoder.load_state(model.decoder.save_state());
}

}  // namespace

void score_reference(TrainState& state, std::vector<Batch>& micro) {
  ModelState& reference = *state.reference;
  if (state.progress.step == 0 && state.objective->inputs().reference) freeze(state.model, reference);
  for (Batch& batch : micro) {
    const auto logp = reference.decoder.forward(batch, false);
    batch.logp_reference.assign(logp.data(), logp.data() + logp.size());
  }
}

optim::NamedValues objective_metrics(optim::Objective<Real>& objective, comm::Communicator& data) {
  const optim::ObjectiveInputs inputs = objective.inputs();
  const std::vector<optim::SequenceRecord> own = objective.take_records();
  if (!inputs.pairs && !inputs.advantage) return {};
  std::string bytes(own.size() * sizeof(optim::SequenceRecord), '\0');
  std::memcpy(bytes.data(), own.data(), bytes.size());
  std::vector<optim::SequenceRecord> all;
  for (const std::string& part : data.gather_texts(bytes, "objective metrics")) {
    const size_t before = all.size();
    all.resize(before + part.size() / sizeof(optim::SequenceRecord));
    std::memcpy(all.data() + before, part.data(), part.size());
  }
  optim::NamedValues metrics = inputs.pairs ? optim::pair_metrics(all) : optim::policy_metrics(all);
  for (auto& setting : objective.settings()) metrics.push_back(std::move(setting));
  return metrics;
}

}  // namespace cadre::trainer
