#include "trainer/run/probe.h"

#include <algorithm>
#include <cmath>

#include "trainer/influence/piece_scores.h"

namespace cadre::trainer {
namespace {

using device::Group;
using nlohmann::json;

// 16 micro-batches are enough to rank a handful of domains; whole steps, since the identity needs the gradient of
// all that was scored, and each target at least one.
int64_t scored_steps(const RunConfig& config, size_t targets) {
  const int64_t sequences = config.influence.micro_batches * config.train.micro_batch;
  const int64_t steps = (sequences + config.train.global_batch - 1) / config.train.global_batch;
  return std::max<int64_t>(steps, int64_t(targets));
}

constexpr int64_t kPart = int64_t(4) << 20;  // elements of D that are made at a time

template <class Body>
void for_pieces(const optim::OwnedSlices& slices, const Body& body) {
  for (int g = 0; g < device::kNumGroups; ++g) {
    for (const comm::Piece& piece : slices.pieces[g]) body(Group(g), piece);
  }
}

}  // namespace

Probe::Probe(const RunConfig& config, const Dataset& dataset, const ProbeContext& context)
    : config_(config.influence),
      context_(context),
      corpus_(target_corpus(config, dataset)),
      store_(
          make_probe_store(*context.model, *context.reducer, config.train.micro_batch * config.data.seq_len)),
      targets_(choose_targets(config, dataset)),
      moved_(context.model->queue.kind(), size_t(kPart) * sizeof(W)),
      steps_(scored_steps(config, targets_.size())) {
  for (const InfluenceTarget& target : targets_) {
    names_.push_back(target.name);
    windows_.emplace_back(corpus_, target, config);
    auto& slices = gradients_.emplace_back();
    for (int g = 0; g < device::kNumGroups; ++g) {
      slices[size_t(g)] =
          device::Buffer(context.model->queue.kind(), size_t(context.slices->state_size[g]) * sizeof(W));
    }
  }
}
Probe::~Probe() = default;

device::View<Probe::W, 1> Probe::gradient(size_t target, Group group) {
  const device::Buffer& memory = gradients_[target][size_t(group)];
  return {reinterpret_cast<W*>(memory.data()), {context_.slices->state_size[int(group)]}};
}

// The gradient of a target's loss into its slices: keep * old + (1 - keep) * new.
void Probe::measure(size_t target, double keep) {
  ModelState& model = *context_.model;
  comm::Communicator& data = model.mesh.data();
  const int64_t sequences = model.config.train.micro_batch;
  std::vector<W> dlogp;
  model.decoder.begin_step();
  auto [rows, token_weight] = windows_[target].at(probes_);
  // On a GPU a batch of another shape than training's costs more than rows of padding: kernels are chosen for it anew.
  if (model.queue.kind() == device::DeviceKind::kCuda) rows.pad(sequences * data.size());
  const bool pairs = corpus_.kind() == data::SetKind::kPreference;
  for (int64_t i = 0; i < rows.micro_batches(sequences, data.size()); ++i) {
    const Batch batch = rows.micro_batch(i, sequences, data.rank(), data.size());
    model.store.start_grads(model.queue, i == 0);
    model.decoder.forward(batch, true);
    dlogp.assign(size_t(batch.num_tokens()), 0);
    for (size_t t = 0; t < dlogp.size(); ++t) {
      if (batch.loss_mask[t] == 0) continue;
      // Of pairs the target is the margin: rejected answers, the odd documents, count against it.
      const double sign = pairs && batch.document[t] % 2 == 1 ? 1 : -1;
      dlogp[t] = W(sign * token_weight[size_t(batch.domain[t])]);
    }
    // Without counts the layers' own losses stay out: the target is the text.
    model.decoder.backward({dlogp.data(), {batch.num_tokens()}}, {},
                           [&](int bucket) { model.store.collect_grads(model.queue, bucket, i == 0); });
  }
  for (int bucket = 0; bucket < model.table.num_buckets(); ++bucket) context_.reducer->add(bucket);
  context_.reducer->finish(model.queue);
  for_pieces(*context_.slices, [&](Group group, const comm::Piece& piece) {
    store_->blend_gradient(group, piece, keep, gradient(target, group).rows(piece.state_offset, piece.count));
  });
}

// D = P times the target's gradient, on all ranks.
void Probe::point(size_t target) {
  const device::View<W, 1> moved(reinterpret_cast<W*>(moved_.data()), {kPart});
  for_pieces(*context_.slices, [&](Group group, const comm::Piece& piece) {
    for (int64_t begin = 0; begin < piece.count; begin += kPart) {
      const comm::Piece part = {.row = piece.row,
                                .row_begin = piece.row_begin + begin,
                                .count = std::min(kPart, piece.count - begin),
                                .group_offset = piece.group_offset + begin,
                                .state_offset = piece.state_offset + begin};
      const auto mean = gradient(target, group).rows(part.state_offset, part.count);
      if (config_.direction == "gradient") {
        store_->set_direction(group, part, mean);
        continue;
      }
      const auto out = moved.rows(0, part.count);
      context_.optimizer->precondition(group, part, mean, out);
      store_->set_direction(group, part, out);
    }
  });
  // Without sharding every rank has all of it.
  if (context_.model->config.mesh.zero != 0) store_->gather_direction();
}

void Probe::begin_step(bool due) {
  scoring_ = false;
  if (left_ == 0) {
    if (!due) return;
    for (size_t target = 0; target < targets_.size(); ++target) {
      measure(target, std::min(config_.ema, double(probes_) / double(probes_ + 1)));
    }
    ++probes_;
    left_ = steps_;
    documents_.assign(targets_.size(), {});
    identity_error_ = 0;
  }
  point(size_t(steps_ - left_) % targets_.size());
  step_documents_.clear();
  step_score_ = step_size_ = 0;
  scoring_ = true;
}

device::AnyTap* Probe::tap() {
  return scoring_ ? store_->tap() : nullptr;
}

void Probe::add(const Batch& micro) {
  const auto scores = store_->finish_scores(micro.num_tokens());
  for (const double s : scores) {
    step_score_ += s;
    step_size_ += std::abs(s);
  }
  add_pieces(piece_scores(micro, scores, context_.model->config.data.mask_documents), step_documents_);
}

std::optional<ProbeReport> Probe::end_step(const BatchCounts& counts, bool skipped) {
  if (!scoring_) return std::nullopt;
  scoring_ = false;
  if (skipped) return std::nullopt;  // its gradient is not finite; the next step takes its place
  comm::Communicator& ranks = context_.model->mesh.data();
  std::vector<double> sums = {step_score_, step_size_, store_->direction_dot_gradient(*context_.slices)};
  ranks.all_reduce(std::span<double>(sums), comm::ReduceOp::kSum, "influence sums");
  const double error = std::abs(sums[0] - sums[2]) / std::max(sums[1], 1e-300);
  // What is checked is that no layer is missing or counted twice.
  const double tolerance = store_->tolerance();
  require(
      error <= tolerance, ExitCode::kNumeric,
      "influence scores add up to {}, but the batch gradient along the direction is {}: {:.2g} of the sum of "
      "absolute scores apart, at most {} expected. Please report this; influence.period: 0 and a mixer "
      "without "
      "influence go on without probes",
      sums[0], sums[2], error, tolerance);
  identity_error_ = std::max(identity_error_, error);
  const size_t target = size_t(steps_ - left_) % targets_.size();
  // Scores belong to the loss per token of this batch: times its tokens they are comparable over batches.
  gather_documents(step_documents_, double(counts.trained_tokens), ranks, documents_[target]);
  if (--left_ > 0) return std::nullopt;
  ProbeReport report{.targets = names_, .sums = {}, .identity_error = identity_error_};
  for (const DocumentScores& documents : documents_)
    report.sums.push_back(influence_sums(documents, context_.num_domains));
  return report;
}

json Probe::save() const {
  json state = {{"targets", names_},
                {"probes", probes_},
                {"left", left_},
                {"error", identity_error_},
                {"documents", json::array()}};
  for (const DocumentScores& documents : documents_) {
    json& rows = state["documents"].emplace_back(json::array());
    if (left_ == 0) continue;  // reported already
    for (const auto& [index, d] : documents) rows.push_back({index, d.domain, d.tokens, d.score});
  }
  return state;
}

void Probe::load(const json& state) try {
  require(state.at("targets") == json(names_), ExitCode::kCheckpoint,
          "the checkpoint's influence targets are {}, this run's {}. Resume with the same `influence` "
          "section and "
          "target text, or start a new run",
          state.at("targets").dump(), json(names_).dump());
  probes_ = state.at("probes");
  left_ = state.at("left");
  identity_error_ = state.at("error");
  documents_.assign(targets_.size(), {});
  if (probes_ == 0) return;
  const json& all = state.at("documents");
  bool fits = left_ >= 0 && left_ <= steps_ && all.size() == names_.size();
  for (size_t target = 0; fits && target < names_.size(); ++target) {
    for (const json& row : all.at(target)) {
      const DocumentScore d{row.at(1), row.at(2), row.at(3)};
      fits = fits && d.domain >= 0 && d.domain < context_.num_domains;
      documents_[target][row.at(0).get<int64_t>()] = d;
    }
  }
  require(fits, ExitCode::kCheckpoint,
          "the checkpoint's influence probe does not fit this run's domains or micro-batches; resume with "
          "the same "
          "data and settings");
} catch (const json::exception& e) {
  fail(ExitCode::kCheckpoint, "the checkpoint's influence state cannot be read: {}", e.what());
}

}  // namespace cadre::trainer
