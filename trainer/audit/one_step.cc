#include "trainer/audit/one_step.h"

#include <cmath>

#include "optim/clipping.h"
#include "trainer/run/text_gradient.h"

namespace cadre::audit {
namespace {

using device::Group;
using trainer::Real;
using trainer::TrainState;

trainer::ScoreTapContext<Real> tap_context(TrainState& state) {
  const auto& config = state.config();
  return {.queue = &state.model.queue,
          .kernels = &device::device_kernels<Real>(state.model.queue.kind()),
          .moe_kernels = &moe::moe_kernels<Real>(state.model.queue.kind()),
          .expert = nullptr,
          .max_tokens = config.train.micro_batch * config.data.seq_len};
}

optim::AdamWConfig adamw_of(const TrainState& state) {
  base::Section section = kind(state.config(), state.config().optim, "optim");
  const std::string name = section.text("name", "adamw");
  require(name == "adamw", ExitCode::kUsage,
          "{}: optim.name is {}, but the audit takes AdamW steps; set optim: adamw", state.config().source,
          name);
  const optim::AdamWConfig config = optim::read_adamw(section);
  require(!config.narrow_moments, ExitCode::kUsage,
          "{}: the audit takes steps back, which it can with moments in fp32 only; leave them so",
          state.config().source);
  return config;
}

}  // namespace

double dot(const Flat& x, const Flat& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += double(x[i]) * double(y[i]);
  return sum;
}

template <class Body>
void OneStep::for_pieces(const Body& body) const {
  for (const Group group : {Group::kDense, Group::kExpert}) {
    for (const comm::Piece& piece : state_.optimizer_context.pieces[int(group)]) body(group, piece);
  }
}

int64_t OneStep::base_of(Group group) const {
  return group == Group::kDense ? 0 : state_.model.layout.group_size(Group::kDense);
}

OneStep::OneStep(TrainState& state, const data::Corpus& target_corpus, trainer::InfluenceTarget target)
    : state_(state),
      target_corpus_(target_corpus),
      target_(std::move(target)),
      target_rows_(target_corpus, target_.documents, state.config().data.seq_len,
                   state.config().data.mask_documents),
      adamw_(adamw_of(state)),
      direction_(state.model.layout, state.model.queue.kind(), false),
      tap_(tap_context(state), direction_),
      updates_(state.optimizer->updates()) {
  require(state.model.mesh.data().size() == 1 && state.model.queue.kind() == device::DeviceKind::kCpu,
          ExitCode::kUsage,
          "{}: the audit runs on one rank of the CPU; start it without mpirun and set device: cpu",
          state.config().source);
  require(updates_ > 0, ExitCode::kUsage, "{}: the audit needs a run that has taken a step",
          state.config().source);
  for (const Group group : {Group::kDense, Group::kExpert}) {
    const auto values = state.model.store.values(group);
    values_.insert(values_.end(), values.begin(), values.end());
    for (const char* name : {"m", "v"}) {
      const auto moment = state.optimizer->state(name, group);
      (name[0] == 'm' ? m_ : v_)[size_t(group)].assign(moment.begin(), moment.end());
    }
  }
}

void OneStep::set_values(const Flat& values) {
  for (const Group group : {Group::kDense, Group::kExpert}) {
    const auto to = state_.model.store.values(group);
    std::copy_n(values.begin() + base_of(group), to.size(), to.begin());
  }
}

void OneStep::set_gradient(const Flat& gradient) {
  for (const Group group : {Group::kDense, Group::kExpert}) {
    const auto to = state_.model.store.grads(group);
    std::copy_n(gradient.begin() + base_of(group), to.size(), to.begin());
  }
}

Flat OneStep::gradient() const {
  Flat all;
  for (const Group group : {Group::kDense, Group::kExpert}) {
    const auto grads = state_.model.store.grads(group);
    all.insert(all.end(), grads.begin(), grads.end());
  }
  return all;
}

TextGradient OneStep::text_gradient(const data::Corpus& corpus, const std::vector<int64_t>& documents,
                                    const Flat* direction) {
  const auto& data = state_.config().data;
  TextGradient result;
  for (const int64_t document : documents) result.tokens += double(corpus.document(document).length - 1);
  if (direction != nullptr) {
    for (const Group group : {Group::kDense, Group::kExpert}) {
      const auto to = direction_.values(group);
      std::copy_n(direction->begin() + base_of(group), to.size(), to.begin());
    }
  }
  trainer::differentiate_text(
      state_.model, trainer::DocumentRows(corpus, documents, data.seq_len, data.mask_documents),
      [&](const Batch&, size_t) { return 1 / result.tokens; }, direction != nullptr ? &tap_ : nullptr,
      [&](const Batch& batch) {
        if (direction == nullptr) return;
        for (const double s : tap_.finish(batch.num_tokens())) result.score += s;
      });
  result.mean = gradient();
  return result;
}

Flat OneStep::target_gradient(const trainer::InfluenceTarget& target) {
  const auto& data = state_.config().data;
  const trainer::DocumentRows rows(target_corpus_, target.documents, data.seq_len, data.mask_documents);
  trainer::differentiate_text(state_.model, rows, [&](const Batch& batch, size_t t) {
    return target.token_weight[size_t(batch.domain[t])];
  });
  return gradient();
}

double OneStep::target_loss() {
  trainer::ModelState& model = state_.model;
  const int64_t sequences = model.config.train.micro_batch;
  double loss = 0;
  for (int64_t i = 0; i < target_rows_.micro_batches(sequences, 1); ++i) {
    const Batch batch = target_rows_.micro_batch(i, sequences, 0, 1);
    const auto logp = model.decoder.forward(batch, false);
    for (int64_t t = 0; t < batch.num_tokens(); ++t) {
      if (batch.loss_mask[size_t(t)] != 0)
        loss -= target_.token_weight[size_t(batch.domain[size_t(t)])] * double(logp[t]);
    }
  }
  return loss;
}

Flat OneStep::precondition(const Flat& gradient) {
  Flat out(gradient.size());
  for_pieces([&](Group group, const comm::Piece& piece) {
    const int64_t at = base_of(group) + piece.group_offset;
    state_.optimizer->precondition(group, piece, {gradient.data() + at, {piece.count}},
                                   {out.data() + at, {piece.count}});
  });
  return out;
}

double OneStep::clip_scale(const Flat& gradient) const {
  const double limit = state_.config().train.clip_norm, norm = std::sqrt(dot(gradient, gradient));
  return limit > 0 && norm > limit ? limit / norm : 1;
}

double OneStep::moment_share() const {
  return (1 - adamw_.beta1) / (1 - std::pow(adamw_.beta1, double(updates_ + 1)));
}

// theta -= lr (mhat / (sqrt(vhat) + eps) + decay theta), with the new m and the old v.
void OneStep::frozen_step(const Flat& gradient, double lr, double scale) {
  const double correction1 = 1 - std::pow(adamw_.beta1, double(updates_ + 1));
  const double correction2 = 1 - std::pow(adamw_.beta2, double(updates_));
  for_pieces([&](Group group, const comm::Piece& piece) {
    const auto values = state_.model.store.values(group);
    const double decay = state_.model.table.row(piece.row).decay ? adamw_.weight_decay : 0;
    for (int64_t i = 0; i < piece.count; ++i) {
      const size_t state = size_t(piece.state_offset + i);
      const int64_t at = piece.group_offset + i;
      const double m = adamw_.beta1 * double(m_[size_t(group)][state]) +
                       (1 - adamw_.beta1) * scale * double(gradient[size_t(base_of(group) + at)]);
      const double root = std::sqrt(double(v_[size_t(group)][state]) / correction2) + adamw_.eps;
      const double value = double(values[at]);
      values[at] = Real(value - lr * (m / correction1 / root + decay * value));
    }
  });
}

void OneStep::real_step(const Flat& gradient, double lr) {
  set_gradient(gradient);
  double squares = 0;
  state_.start_norm(squares);
  state_.model.queue.wait();
  const optim::GradNorm norm =
      optim::finish_norm(squares, state_.model.mesh.data(), state_.config().train.clip_norm, 0);
  state_.optimizer->step(lr, norm.scale);
  state_.model.queue.wait();
}

void OneStep::restore() {
  set_values(values_);
  for (const Group group : {Group::kDense, Group::kExpert}) {
    std::copy(m_[size_t(group)].begin(), m_[size_t(group)].end(),
              state_.optimizer->state("m", group).begin());
    std::copy(v_[size_t(group)].begin(), v_[size_t(group)].end(),
              state_.optimizer->state("v", group).begin());
  }
  state_.optimizer->set_updates(updates_);
}

double OneStep::loss_after(const Flat& gradient, double lr, bool frozen) {
  frozen ? frozen_step(gradient, lr, clip_scale(gradient)) : real_step(gradient, lr);
  const double loss = target_loss();
  restore();
  return loss;
}

Flat OneStep::target_gradient_after(const Flat& gradient, double lr) {
  real_step(gradient, lr);
  Flat result = target_gradient();
  restore();
  return result;
}

}  // namespace cadre::audit
