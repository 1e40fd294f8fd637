#include "trainer/model/head_exchange.h"

#include <algorithm>
#include <vector>

#include "parallel/base/errors.h"
#include "parallel/device/transfer.h"

namespace cadre::trainer {

HeadShare head_share(const ModelConfig& config, int64_t ranks) {
  return {config.heads / ranks, std::max<int64_t>(1, config.kv_heads / ranks)};
}

template <class T>
HeadExchange<T>::HeadExchange(const ModelConfig& config, const ModelContext<T>& context)
    : config_(config),
      context_(context),
      ranks_(context.context_ranks()),
      share_(head_share(config, ranks_)) {
  require(config.heads % ranks_ == 0 && (config.kv_heads % ranks_ == 0 || ranks_ % config.kv_heads == 0),
          ExitCode::kUsage,
          "mesh.cp is {}: attention's heads are shared by so many ranks, and model.heads = {} and "
          "model.kv_heads = {} do not divide so; choose a mesh.cp that divides the heads, and divides the KV "
          "heads or is a multiple of them",
          ranks_, config.heads, config.kv_heads);
}

template <class T>
bool HeadExchange<T>::shared(const Sides& sides) const {
  return sides.sequences.dim(1) * ranks_ != sides.tokens.dim(1);
}

template <class T>
void HeadExchange<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t rows = context_.max_tokens() * ranks_, h = config_.head_size();
  for (View<int32_t, 1>* view : {&by_rank_, &by_token_, &shared_by_rank_})
    *view = saved.take<int32_t, 1>({rows});
  tokens_placed_ = -1;
  packed_[0] = scratch.take<T, 1>({rows * share_.heads * h});
  for (View<T, 1>* view : {&packed_[1], &packed_[2]})
    *view = scratch.take<T, 1>({rows * share_.kv_heads * h});
}

template <class T>
void HeadExchange<T>::start(int64_t num_sequences, int64_t seq_len) {
  num_sequences_ = num_sequences;
  seq_len_ = seq_len;
  const int64_t tokens = num_sequences * seq_len, groups = config_.kv_heads;
  if (tokens == tokens_placed_) return;
  tokens_placed_ = tokens;
  const auto rows = size_t(tokens * ranks_);
  std::vector<int32_t> by_rank(rows), by_token(rows), shared_by_rank(rows);
  for (int64_t r = 0; r < ranks_; ++r) {
    for (int64_t t = 0; t < tokens; ++t) {
      by_rank[size_t(r * tokens + t)] = int32_t(t * ranks_ + r);
      by_token[size_t(t * ranks_ + r)] = int32_t(r * tokens + t);
      shared_by_rank[size_t(r * tokens + t)] = int32_t(t * groups + r * groups / ranks_);
    }
  }
  device::upload<int32_t>(*context_.queue, by_rank, by_rank_);
  device::upload<int32_t>(*context_.queue, by_token, by_token_);
  device::upload<int32_t>(*context_.queue, shared_by_rank, shared_by_rank_);
}

template <class T>
device::View<T, 2> HeadExchange<T>::packed(const Sides& sides, size_t at) const {
  const View<T, 3>& x = sides.sequences;
  return {packed_[at].data(), {x.dim(0), x.dim(1) * x.dim(2)}};
}

// Rows of a sequence's part are contiguous on both sides, so that each sequence is an exchange of its own and nothing is
// sorted where it arrives.
template <class T>
void HeadExchange<T>::travel(std::span<const Sides> all, bool home) const {
  comm::Communicator& group = context_.mesh->context_tensors();
  const auto ranks = size_t(ranks_);
  std::vector<comm::Request> requests;
  std::vector<int64_t> counts(ranks), part(ranks), packed_part(ranks);
  group.begin_together();
  for (size_t i = 0; i < all.size(); ++i) {
    const int64_t width = all[i].sequences.dim(1) * all[i].sequences.dim(2), length = seq_len_ * width;
    for (size_t r = 0; r < ranks; ++r) {
      counts[r] = length;
      part[r] = int64_t(r) * length;
      packed_part[r] = int64_t(r) * num_sequences_ * length;
    }
    for (int64_t s = 0; s < num_sequences_; ++s) {
      T* const whole = all[i].sequences.data() + s * ranks_ * length;
      T* const pack = packed(all[i], i).data() + s * length;
      const auto dtype = comm::dtype_of<T>();
      requests.push_back(
          home ? group.all_to_all(whole, counts, part, pack, counts, packed_part, dtype, "heads to tokens")
               : group.all_to_all(pack, counts, packed_part, whole, counts, part, dtype, "tokens to heads"));
    }
  }
  group.end_together();
  for (comm::Request& request : requests) request.then(*context_.queue);
}

template <class T>
void HeadExchange<T>::to_sequences(std::span<const Sides> all) const {
  for (size_t i = 0; i < all.size(); ++i) {
    const View<T, 2> to = packed(all[i], i);
    const View<T, 3>& from = all[i].tokens;
    const View<int32_t, 1>& place = shared(all[i]) ? shared_by_rank_ : by_rank_;
    context_.kernels->embed(*context_.queue, from.template reshape<2>({from.size() / to.dim(1), to.dim(1)}),
                            place.rows(0, to.dim(0)), to);
  }
  travel(all, false);
}

template <class T>
void HeadExchange<T>::to_tokens(std::span<const Sides> all) const {
  travel(all, true);
  for (size_t i = 0; i < all.size(); ++i) {
    const View<T, 2> from = packed(all[i], i);
    const View<T, 3>& tokens = all[i].tokens;
    const View<T, 2> to = tokens.template reshape<2>({tokens.size() / from.dim(1), from.dim(1)});
    if (!shared(all[i])) {
      context_.kernels->embed(*context_.queue, from, by_token_.rows(0, from.dim(0)), to);
      continue;
    }
    context_.kernels->fill(*context_.queue, tokens.template reshape<1>({tokens.size()}), 0);
    context_.kernels->embed_backward(*context_.queue, from, shared_by_rank_.rows(0, from.dim(0)), to);
  }
}

template class HeadExchange<float>;
template class HeadExchange<double>;
template class HeadExchange<device::bf16>;

}  // namespace cadre::trainer
