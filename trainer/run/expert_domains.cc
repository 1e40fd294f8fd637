#include "trainer/run/expert_domains.h"

#include <algorithm>
#include <cstdlib>

namespace cadre::trainer {
namespace {

// The layer of "layers.<layer>.moe.experts.w_down", of which every slot has one row; -1 for any other name.
int layer_of(const std::string& name) {
  constexpr std::string_view kBefore = "layers.", kBehind = ".moe.experts.w_down";
  if (!name.starts_with(kBefore) || !name.ends_with(kBehind)) return -1;
  return std::atoi(name.c_str() + kBefore.size());
}

}  // namespace

ExpertDomains::ExpertDomains(ModelState& model, int num_domains)
    : model_(model),
      domains_(size_t(num_domains)),
      max_tokens_(model.config.train.micro_batch * model.config.data.seq_len / model.config.mesh.cp) {
  if (!model.config.moe) return;
  experts_ = size_t(model.config.moe->num_experts);
  for (const device::ParamRow& row : model.table.rows()) {
    const int layer = layer_of(row.name);
    slot_of_.push_back(layer < 0 ? -1 : int(counts_.size()));
    if (layer >= 0) counts_.push_back({layer, {}});
  }
}

void ExpertDomains::begin_step(bool due) {
  // In imitation of other ranks nobody says where their tokens come from.
  counting_ = due && !counts_.empty() && model_.queue.kind() == device::DeviceKind::kCpu &&
              !model_.mesh.expert_tensors().imitation();
  if (!counting_) return;
  for (LayerDomains& layer : counts_) layer.tokens.assign(domains_, std::vector<double>(experts_, 0.0));
}

device::AnyTap* ExpertDomains::around(device::AnyTap* inner, const Batch& micro) {
  if (!counting_) return inner;
  inner_ = dynamic_cast<device::Tap<Real>*>(inner);
  comm::Communicator& group = model_.mesh.expert();
  domain_of_.assign(size_t(group.size() * max_tokens_), 0);
  std::copy(micro.domain.begin(), micro.domain.end(), domain_of_.begin() + group.rank() * max_tokens_);
  if (group.size() > 1)
    group.all_reduce(std::span<int32_t>(domain_of_), comm::ReduceOp::kSum, "domains of tokens");
  return this;
}

std::vector<LayerDomains> ExpertDomains::finish() {
  if (!counting_) return {};
  counting_ = false;
  std::vector<double> all;
  for (const LayerDomains& layer : counts_) {
    for (const auto& row : layer.tokens) all.insert(all.end(), row.begin(), row.end());
  }
  model_.mesh.data().all_reduce(std::span<double>(all), comm::ReduceOp::kSum, "experts by domain");
  auto next = all.begin();
  for (LayerDomains& layer : counts_) {
    for (auto& row : layer.tokens) {
      std::copy_n(next, row.size(), row.begin());
      next += int64_t(row.size());
    }
  }
  return counts_;
}

void ExpertDomains::on_linear(int param, device::View<const Real, 2> a, device::View<const Real, 2> b,
                              const int32_t* token, device::View<const int64_t, 1> group_offsets) {
  if (inner_ != nullptr) inner_->on_linear(param, a, b, token, group_offsets);
  const int slot = slot_of_[size_t(param)];
  if (slot < 0) return;
  const bool widths =
      shares_widths(model_);  // then every rank has the slots of all experts: the first one counts
  if (widths && model_.mesh.expert().rank() != 0) return;
  const int64_t local = group_offsets.size() - 1, first = widths ? 0 : model_.mesh.expert().rank() * local;
  for (int64_t e = 0; e < local; ++e) {
    for (int64_t r = group_offsets[e]; r < group_offsets[e + 1]; ++r) {
      const auto domain = size_t(domain_of_[size_t(token[r])]);
      counts_[size_t(slot)].tokens[domain][size_t(first + e)] += 1;
    }
  }
}

void ExpertDomains::on_lookup(int param, device::View<const int32_t, 1> index,
                              device::View<const Real, 2> b) {
  if (inner_ != nullptr) inner_->on_lookup(param, index, b);
}

void ExpertDomains::on_scale(int param, device::View<const Real, 2> x, device::View<const Real, 1> rstd,
                             device::View<const Real, 2> b, int64_t rows_per_token) {
  if (inner_ != nullptr) inner_->on_scale(param, x, rstd, b, rows_per_token);
}

}  // namespace cadre::trainer
