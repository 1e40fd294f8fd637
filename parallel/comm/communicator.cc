#include "parallel/comm/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace cadre::comm {
namespace {

// Up to here an all-reduce gathers everything everywhere (one round, ranks * bytes received); above, each
// rank sums its share (two rounds, 2 * bytes). Both add in rank order, so the limit cannot be seen in the
// result.
constexpr int64_t kSmallBytes = 16 << 10;

template <class T>
void combine(T* into, const T* from, int64_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      for (int64_t i = 0; i < count; ++i) into[i] += from[i];
      return;
    case ReduceOp::kMax:
      for (int64_t i = 0; i < count; ++i) into[i] = std::max(into[i], from[i]);
      return;
    case ReduceOp::kMin:
      for (int64_t i = 0; i < count; ++i) into[i] = std::min(into[i], from[i]);
      return;
  }
}

// out = parts[0] op parts[1] op ..., each of `count` elements, one after the other.
template <class T>
void combine_in_order(const std::byte* parts, int ranks, int64_t count, ReduceOp op, void* out) {
  const T* part = reinterpret_cast<const T*>(parts);
  T* sum = static_cast<T*>(out);
  std::copy_n(part, count, sum);
  for (int r = 1; r < ranks; ++r) combine(sum, part + r * count, count, op);
}

void combine_in_order(const std::byte* parts, int ranks, int64_t count, Dtype dtype, ReduceOp op, void* out) {
  switch (dtype) {
    case Dtype::kInt32:
      return combine_in_order<int32_t>(parts, ranks, count, op, out);
    case Dtype::kInt64:
      return combine_in_order<int64_t>(parts, ranks, count, op, out);
    case Dtype::kFloat:
      return combine_in_order<float>(parts, ranks, count, op, out);
    case Dtype::kDouble:
      return combine_in_order<double>(parts, ranks, count, op, out);
    case Dtype::kByte:
    case Dtype::kBf16:
      break;
  }
  throw std::logic_error("bytes and bf16 cannot be reduced in host memory");
}

std::vector<int64_t> offsets_of(std::span<const int64_t> counts) {
  std::vector<int64_t> offsets(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), int64_t(0));
  return offsets;
}

}  // namespace

size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kByte:
      return 1;
    case Dtype::kInt32:
      return 4;
    case Dtype::kInt64:
      return 8;
    case Dtype::kBf16:
      return 2;
    case Dtype::kFloat:
      return 4;
    case Dtype::kDouble:
      return 8;
  }
  return 0;
}

// Receive buffers of reductions, kept for the next call: a training step makes the same calls every time, so
// that only its first one allocates. Shared with the requests, which give their buffer back when done.
class Communicator::Staging {
 public:
  struct Block {
    std::unique_ptr<std::byte[]> data;
    size_t bytes = 0;
  };
  // The smallest free block that is large enough.
  Block take(size_t bytes) {
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->bytes >= bytes && (best == free_.end() || it->bytes < best->bytes)) best = it;
    }
    if (best == free_.end()) return {std::make_unique_for_overwrite<std::byte[]>(bytes), bytes};
    Block block = std::move(*best);
    free_.erase(best);
    return block;
  }
  void give_back(Block block) { free_.push_back(std::move(block)); }
  void abandon(Block block) { abandoned_.push_back(std::move(block)); }  // never handed out again

 private:
  std::vector<Block> free_, abandoned_;
};

// Waits for the parts of all ranks, then adds them up.
class Communicator::Reduction : public Request::State {
 public:
  Reduction(std::shared_ptr<Staging> staging, int ranks, int64_t count, Dtype dtype, ReduceOp op, void* out)
      : staging_(std::move(staging)),
        block_(staging_->take(size_t(ranks * count) * size_of(dtype))),
        ranks_(ranks),
        count_(count),
        dtype_(dtype),
        op_(op),
        out_(out) {}
  // After a timeout the transport may still write here: the memory stays with the communicator.
  ~Reduction() override {
    if (block_.data) staging_->abandon(std::move(block_));
  }
  std::byte* parts() { return block_.data.get(); }
  void start(Request parts_arrive) { parts_arrive_ = std::move(parts_arrive); }

  bool test() override {
    if (!parts_arrive_.test()) return false;
    finish();
    return true;
  }
  void wait() override {
    parts_arrive_.wait();
    finish();
  }

 private:
  void finish() {
    combine_in_order(parts(), ranks_, count_, dtype_, op_, out_);
    staging_->give_back(std::move(block_));
  }
  std::shared_ptr<Staging> staging_;
  Staging::Block block_;
  Request parts_arrive_;
  int ranks_;
  int64_t count_;
  Dtype dtype_;
  ReduceOp op_;
  void* out_;
};

Communicator::Communicator(std::string name)
    : name_(std::move(name)), staging_(std::make_shared<Staging>()) {}

Request Communicator::start_reduction(const void* send, std::span<const int64_t> cuts, void* receive,
                                      Dtype dtype, ReduceOp op, std::string_view label) {
  const int ranks = size();
  const int64_t own = cuts[rank() + 1] - cuts[rank()];
  if (ranks == 1) {
    const std::byte* from = static_cast<const std::byte*>(send) + size_t(cuts[0]) * size_of(dtype);
    if (own > 0) std::memmove(receive, from, size_t(own) * size_of(dtype));
    return {};
  }
  std::vector<int64_t> send_counts(ranks), receive_counts(ranks, own);
  for (int r = 0; r < ranks; ++r) send_counts[r] = cuts[r + 1] - cuts[r];
  auto reduction = std::make_unique<Reduction>(staging_, ranks, own, dtype, op, receive);
  if (imitation_) {
    const size_t bytes = size_t(own) * size_of(dtype);
    const std::byte* part = static_cast<const std::byte*>(send) + size_t(cuts[rank()]) * size_of(dtype);
    for (int r = 0; r < ranks && bytes > 0; ++r)
      std::memcpy(reduction->parts() + size_t(r) * bytes, part, bytes);
    return Request(std::move(reduction));
  }
  reduction->start(all_to_all(send, send_counts, cuts.first(ranks), reduction->parts(), receive_counts,
                              offsets_of(receive_counts), dtype, label));
  return Request(std::move(reduction));
}

Request Communicator::reduce_scatter_untyped(const void* send, std::span<const int64_t> cuts, void* receive,
                                             Dtype dtype, std::string_view label) {
  require(int(cuts.size()) == size() + 1 && std::is_sorted(cuts.begin(), cuts.end()), ExitCode::kComm,
          "{}: found {} cuts for {} ranks, expected {} in rising order", label, cuts.size(), size(),
          size() + 1);
  return start_reduction(send, cuts, receive, dtype, ReduceOp::kSum, label);
}

void Communicator::all_reduce_untyped(void* data, int64_t count, Dtype dtype, ReduceOp op,
                                      std::string_view label) {
  const int ranks = size();
  if (ranks == 1 || count == 0) return;
  if (in_host_memory() && count * int64_t(size_of(dtype)) <= kSmallBytes) {
    const std::vector<int64_t> counts(ranks, count);
    Reduction reduction(staging_, ranks, count, dtype, op, data);
    reduction.start(all_gather(data, count, reduction.parts(), counts, offsets_of(counts), dtype, label));
    return reduction.wait();
  }
  if (in_host_memory() && imitation_) {
    std::vector<int64_t> whole(size_t(ranks) + 1, 0);
    std::fill(whole.begin() + rank() + 1, whole.end(), count);  // so that all is this rank's to add up
    return start_reduction(data, whole, data, dtype, op, label).wait();
  }
  std::vector<int64_t> cuts(ranks + 1), counts(ranks);
  for (int r = 0; r <= ranks; ++r) cuts[r] = count / ranks * r + std::min<int64_t>(r, count % ranks);
  for (int r = 0; r < ranks; ++r) counts[r] = cuts[r + 1] - cuts[r];
  void* own = static_cast<std::byte*>(data) + size_t(cuts[rank()]) * size_of(dtype);
  start_reduction(data, cuts, own, dtype, op, label).wait();
  all_gather(own, counts[rank()], data, counts, std::span(cuts).first(ranks), dtype, label).wait();
}

// A peer's part is replaced by what would have gone to it, which is about as long.
void Communicator::imitate_all_to_all(const void* send, std::span<const int64_t> send_counts,
                                      std::span<const int64_t> send_displs, void* receive,
                                      std::span<const int64_t> receive_counts,
                                      std::span<const int64_t> receive_displs, Dtype dtype) const {
  const int64_t width = int64_t(size_of(dtype));
  for (int peer = 0; peer < size(); ++peer) {
    const int64_t count = std::min(send_counts[peer], receive_counts[peer]);
    if (count > 0)
      std::memcpy(static_cast<std::byte*>(receive) + receive_displs[peer] * width,
                  static_cast<const std::byte*>(send) + send_displs[peer] * width, size_t(count * width));
  }
}

void Communicator::imitate_all_gather(const void* send, int64_t send_count, void* receive,
                                      std::span<const int64_t> receive_counts,
                                      std::span<const int64_t> receive_displs, Dtype dtype) const {
  const int64_t width = int64_t(size_of(dtype));
  const auto place = [&](int peer) {
    return static_cast<std::byte*>(receive) + receive_displs[peer] * width;
  };
  const bool in_place = send == place(rank());
  const int64_t longest = *std::max_element(receive_counts.begin(), receive_counts.end());
  Staging::Block aside = in_place ? staging_->take(size_t(longest * width)) : Staging::Block();
  for (int peer = 0; peer < size(); ++peer) {
    const int64_t count = in_place ? receive_counts[peer] : std::min(send_count, receive_counts[peer]);
    if (count == 0 || (in_place && peer == rank())) continue;
    const void* from = in_place ? place(peer) : send;
    std::memcpy(in_place ? aside.data.get() : place(peer), from, size_t(count * width));
  }
  if (in_place) staging_->give_back(std::move(aside));
}

std::vector<int64_t> Communicator::exchange_counts(std::span<const int64_t> send, std::string_view label) {
  require(int(send.size()) == size(), ExitCode::kComm, "{}: found {} counts for {} ranks", label, send.size(),
          size());
  std::vector<int64_t> received(size());
  const std::vector<int64_t> ones(size(), 1), offsets = offsets_of(ones);
  all_to_all(send.data(), ones, offsets, received.data(), ones, offsets, Dtype::kInt64, label).wait();
  return received;
}

void Communicator::barrier(std::string_view label) {
  const std::vector<int64_t> ones(size(), 1);
  const std::byte here{1};
  std::vector<std::byte> all(size());
  all_gather(&here, 1, all.data(), ones, offsets_of(ones), Dtype::kByte, label).wait();
}

std::vector<std::string> Communicator::gather_texts(const std::string& text, std::string_view label) {
  const std::vector<int64_t> ones(size(), 1);
  const int64_t length = int64_t(text.size());
  std::vector<int64_t> lengths(size());
  all_gather(&length, 1, lengths.data(), ones, offsets_of(ones), Dtype::kInt64, label).wait();
  const std::vector<int64_t> offsets = offsets_of(lengths);
  std::string all(size_t(offsets.back() + lengths.back()), '\0');
  all_gather(text.data(), length, all.data(), lengths, offsets, Dtype::kByte, label).wait();
  std::vector<std::string> texts;
  for (int r = 0; r < size(); ++r) texts.push_back(all.substr(size_t(offsets[r]), size_t(lengths[r])));
  return texts;
}

void Communicator::agree(const std::string& error, ExitCode code, std::string_view label) {
  // The common case, no error anywhere, costs one number.
  if (all_reduce(int64_t(error.size()), ReduceOp::kMax, label) == 0) return;
  const std::vector<std::string> errors = gather_texts(error, label);
  for (int r = 0; r < size(); ++r) {
    if (errors[r].empty()) continue;
    const int64_t others =
        std::count_if(errors.begin() + r + 1, errors.end(), [](auto& e) { return !e.empty(); });
    fail(code, "{}{}{}", size() > 1 ? fmt::format("rank {}: ", r) : "", errors[r],
         others > 0 ? fmt::format(" (and {} more ranks)", others) : "");
  }
}

}  // namespace cadre::comm
