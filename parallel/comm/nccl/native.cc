// NCCL's own collectives in bf16.
#include "parallel/comm/native.h"

#include "parallel/comm/nccl/nccl_communicator.h"

namespace cadre::comm::nccl {

std::vector<NativeCollective> native_of(NcclCommunicator& c) {
  const double share = double(c.size() - 1) / c.size();
  const auto entry = [&c](const char* name, double wire_share, auto start) {
    return NativeCollective{
        name, wire_share,
        [&c, start](std::byte* send, std::byte* receive, int64_t bytes, device::Queue& queue) {
          c.run_native([&] { return start(send, receive, size_t(bytes) / 2); }, queue);
        }};
  };
  const int size = c.size(), rank = c.rank();
  return {entry("NCCL reduce-scatter", share,
                [&c, size, rank](std::byte* send, std::byte*, size_t n) {
                  n /= size_t(size);
                  return ncclReduceScatter(send, send + size_t(rank) * n * 2, n, ncclBfloat16, ncclSum,
                                           c.handle(), c.stream());
                }),
          entry("NCCL all-reduce", 2 * share,
                [&c](std::byte* send, std::byte*, size_t n) {
                  return ncclAllReduce(send, send, n, ncclBfloat16, ncclSum, c.handle(), c.stream());
                }),
          entry("NCCL all-gather", share,
                [&c, size, rank](std::byte*, std::byte* receive, size_t n) {
                  n /= size_t(size);
                  return ncclAllGather(receive + size_t(rank) * n * 2, receive, n, ncclBfloat16, c.handle(),
                                       c.stream());
                }),
          entry("NCCL all-to-all", share, [&c, size](std::byte* send, std::byte* receive, size_t n) {
            return ncclAlltoAll(send, receive, n / size_t(size), ncclBfloat16, c.handle(), c.stream());
          })};
}

}  // namespace cadre::comm::nccl
