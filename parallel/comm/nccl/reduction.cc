// reduce_scatter of NcclCommunicator: parts travel in chunks through staging memory, and each chunk is added up while the
// next one is on its way.
#include <algorithm>

#include "parallel/comm/nccl/echo.h"
#include "parallel/comm/nccl/elements.h"
#include "parallel/comm/nccl/nccl_communicator.h"
#include "parallel/comm/nccl/sum_parts.h"
#include "parallel/device/cuda/check.h"

namespace cadre::comm::nccl {
namespace {

namespace gpu = device::cuda;

void sum_parts(cudaStream_t stream, const Parts& parts, Dtype dtype, std::string_view label) {
  switch (dtype) {
    case Dtype::kBf16:
      return sum_bf16(stream, parts);
    case Dtype::kFloat:
      return sum_float(stream, parts);
    case Dtype::kDouble:
      return sum_double(stream, parts);
    case Dtype::kInt32:
      return sum_int32(stream, parts);
    case Dtype::kInt64:
      return sum_int64(stream, parts);
    case Dtype::kByte:
      fail(ExitCode::kComm, "{}: bytes cannot be added up", label);
  }
}

}  // namespace

struct NcclCommunicator::Staged {
  const void* send;
  std::span<const int64_t> cuts;
  void* receive;
  Dtype dtype;
  int64_t chunk;  // elements of a part that come at a time
  bool copies;    // else NCCL
};

// Elements [begin, begin + chunk) of every part: sent and received, or fetched, then added up beside the next ones' journey.
void NcclCommunicator::reduce_part(const Staged& s, int64_t begin, int half, std::string_view label) {
  const auto count_of = [&](int r) {
    return std::clamp<int64_t>(s.cuts[r + 1] - s.cuts[r] - begin, 0, s.chunk);
  };
  const int64_t own = count_of(rank_);
  std::byte* staged = staging_.data() + size_t(half) * kHalf;
  const ncclDataType_t type = nccl_type(s.dtype);
  const bool by_nccl = !imitation() && !s.copies;
  if (imitation()) {
    const size_t bytes = size_t(own) * size_of(s.dtype), stride = size_t(s.chunk) * size_of(s.dtype);
    begin_transfer(bytes * size_t(size_ - 1));
    echo(stream_, at(s.send, s.cuts[rank_] + begin, s.dtype), bytes, staged, stride, size_ - 1);
    end_transfer();
  }
  if (by_nccl) check(ncclGroupStart(), label);
  for (int step = 1; step < size_ && !imitation(); ++step) {
    const int peer = (rank_ + step) % size_;
    const std::byte* from = at(s.send, s.cuts[peer] + begin, s.dtype);
    std::byte* to = at(staged, (peer < rank_ ? peer : peer - 1) * s.chunk, s.dtype);
    const int64_t there = count_of(peer);
    if (s.copies) {
      fetch(to, at(s.send, s.cuts[rank_] + begin, s.dtype), peer, size_t(own) * size_of(s.dtype));
      continue;
    }
    if (there > 0) check(ncclSend(from, size_t(there), type, peer, comm_, stream_), label);
    if (own > 0) check(ncclRecv(to, size_t(own), type, peer, comm_, stream_), label);
  }
  if (by_nccl) check(ncclGroupEnd(), label);
  order(stream_, arrived_[half], sum_stream_);
  const Parts parts = {at(s.send, s.cuts[rank_] + begin, s.dtype),
                       staged,
                       s.chunk,
                       rank_,
                       size_,
                       own,
                       at(s.receive, begin, s.dtype)};
  sum_parts(sum_stream_, parts, s.dtype, label);
  gpu::check(cudaEventRecord(summed_[half], sum_stream_));
}

Request NcclCommunicator::start_reduction(const void* send, std::span<const int64_t> cuts, void* receive,
                                          Dtype dtype, ReduceOp op, std::string_view label) {
  require(op == ReduceOp::kSum, ExitCode::kComm, "{}: GPUs only add", label);
  reserve_staging();
  int64_t longest = 0;
  for (int r = 0; r < size_; ++r) longest = std::max(longest, cuts[r + 1] - cuts[r]);
  constexpr int64_t kUnit = 16;  // elements: parts begin where packs of 16 bytes do
  const int64_t fits = int64_t(kHalf / size_of(dtype)) / (size_ - 1) / kUnit * kUnit;
  const Staged staged = {send, cuts, receive, dtype, fits, copies(at(send, cuts[0], dtype))};
  auto call = begin("reduce_scatter", label, uint64_t(cuts[size_] - cuts[0]) * size_of(dtype));
  if (staged.copies) windows_->meet(stream_);
  int half = 0;
  for (int64_t begin = 0; begin < longest; begin += fits, half ^= 1) {
    // The half's sums of two turns ago read what is written now.
    if (begin >= 2 * fits) gpu::check(cudaStreamWaitEvent(stream_, summed_[half], 0));
    reduce_part(staged, begin, half, label);
  }
  if (staged.copies) windows_->meet(stream_);
  for (int h = 0; h < 2; ++h) {
    if (longest > h * fits) gpu::check(cudaStreamWaitEvent(stream_, summed_[h], 0));
  }
  return end(std::move(call));
}

}  // namespace cadre::comm::nccl
