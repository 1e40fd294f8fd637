// The part of NCCL that Cadre's runs call, between processes of one host that may share one GPU, which NCCL itself refuses.
// Preloaded, it lets the tests for several GPUs run on one (cadre_test_one_gpu); its speed says nothing.
//
// Messages go through mailboxes in host memory that all ranks map and their GPUs reach. What a call does is queued on its
// stream, waits and signals too (stream memory operations), as NCCL's kernels would be: the host waits for nothing.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr size_t kSlot = size_t(4) << 20;  // bytes of a message that travel at a time
constexpr auto kPatience = std::chrono::seconds(60);

// Of one rank to another. Both numbers count pieces, and only grow.
struct alignas(64) Counters {
  uint32_t written, read;
};
struct Header {
  std::atomic<int> attached;
};
constexpr size_t kPage = 4096;

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "one_gpu_nccl: %s failed\n", what);
  std::abort();
}
void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) std::fprintf(stderr, "one_gpu_nccl: %s\n", cudaGetErrorString(status));
  require(status == cudaSuccess, what);
}

template <class Function>
Function driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = {};
  constexpr unsigned kFromVersion = 12000;
  check(cudaGetDriverEntryPointByVersion(name, &found, kFromVersion, cudaEnableDefault, &result), name);
  require(found != nullptr, name);
  return reinterpret_cast<Function>(found);
}
using ValueFunction = CUresult (*)(CUstream, CUdeviceptr, cuuint32_t, unsigned);

void stream_wait(cudaStream_t stream, uint32_t* device_address, uint32_t at_least) {
  static const auto wait = driver_function<ValueFunction>("cuStreamWaitValue32");
  require(wait(stream, CUdeviceptr(device_address), at_least, CU_STREAM_WAIT_VALUE_GEQ) == CUDA_SUCCESS,
          "cuStreamWaitValue32");
}
void stream_write(cudaStream_t stream, uint32_t* device_address, uint32_t value) {
  static const auto write = driver_function<ValueFunction>("cuStreamWriteValue32");
  require(write(stream, CUdeviceptr(device_address), value, CU_STREAM_WRITE_VALUE_DEFAULT) == CUDA_SUCCESS,
          "cuStreamWriteValue32");
}

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      require(false, "a number's type");
      return 0;
  }
}

}  // namespace

struct ncclComm {
  int rank = 0, ranks = 0;
  size_t bytes = 0;
  std::byte* host = nullptr;             // header, counters, slots
  std::byte* device = nullptr;           // the same as the GPU reaches it
  std::vector<uint32_t> sent, received;  // pieces so far, by peer

  size_t box(int from, int to) const { return size_t(from) * size_t(ranks) + size_t(to); }
  Counters* counters(int from, int to) const {
    return reinterpret_cast<Counters*>(device + kPage) + box(from, to);
  }
  std::byte* slot(int from, int to) const { return device + slots_begin() + box(from, to) * kSlot; }
  size_t slots_begin() const {
    const size_t all = size_t(ranks) * size_t(ranks) * sizeof(Counters);
    return kPage + (all + kPage - 1) / kPage * kPage;
  }
};

namespace {

struct Message {
  ncclComm_t comm;
  cudaStream_t stream;
  const std::byte* from;  // null: to be received
  std::byte* to;
  size_t bytes;
  int peer;
};
thread_local std::vector<Message> g_messages;
thread_local int g_depth = 0;

struct Piece {
  const Message* message;
  size_t begin;
  size_t bytes() const { return std::min(kSlot, message->bytes - begin); }
};

void send(const Piece& piece) {
  const Message& m = *piece.message;
  ncclComm& c = *m.comm;
  Counters* counters = c.counters(c.rank, m.peer);
  uint32_t& sent = c.sent[size_t(m.peer)];
  stream_wait(m.stream, &counters->read, sent);  // the slot is free
  check(cudaMemcpyAsync(c.slot(c.rank, m.peer), m.from + piece.begin, piece.bytes(), cudaMemcpyDefault,
                        m.stream),
        "send");
  stream_write(m.stream, &counters->written, ++sent);
}
void receive(const Piece& piece) {
  const Message& m = *piece.message;
  ncclComm& c = *m.comm;
  Counters* counters = c.counters(m.peer, c.rank);
  uint32_t& received = c.received[size_t(m.peer)];
  stream_wait(m.stream, &counters->written, ++received);
  check(
      cudaMemcpyAsync(m.to + piece.begin, c.slot(m.peer, c.rank), piece.bytes(), cudaMemcpyDefault, m.stream),
      "receive");
  stream_write(m.stream, &counters->read, received);
}

// In turns: in turn i the i-th piece to each peer, then the i-th of each. A rank waits for what a peer sends in the same turn, before
// it waits itself, and for room that the peer made in the turn before.
ncclResult_t flush() {
  using Key = std::pair<ncclComm_t, int>;  // a peer of a communicator
  std::map<Key, std::vector<Piece>> to, from;
  size_t turns = 0;
  for (const Message& m : g_messages) {
    std::vector<Piece>& pieces = (m.from != nullptr ? to : from)[{m.comm, m.peer}];
    for (size_t begin = 0; begin < m.bytes; begin += kSlot) pieces.push_back({&m, begin});
    turns = std::max(turns, pieces.size());
  }
  for (size_t turn = 0; turn < turns; ++turn) {
    for (const auto& [peer, pieces] : to)
      if (turn < pieces.size()) send(pieces[turn]);
    for (const auto& [peer, pieces] : from)
      if (turn < pieces.size()) receive(pieces[turn]);
  }
  g_messages.clear();
  return ncclSuccess;
}

ncclResult_t add(const Message& message) {
  g_messages.push_back(message);
  return g_depth == 0 ? flush() : ncclSuccess;
}
ncclResult_t not_here() {
  return ncclInvalidUsage;
}

}  // namespace

extern "C" {

extern const int cadre_one_gpu_nccl = 1;  // one_gpu.h

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  const std::string name = "/cadre-one-gpu-" + std::to_string(getpid()) + "-" + std::to_string(random());
  std::memset(id, 0, sizeof *id);
  name.copy(id->internal, sizeof id->internal - 1);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  auto* made = new ncclComm;
  made->rank = rank;
  made->ranks = ranks;
  made->sent.assign(size_t(ranks), 0);
  made->received.assign(size_t(ranks), 0);
  made->bytes = made->slots_begin() + size_t(ranks) * size_t(ranks) * kSlot;
  const int file = shm_open(id.internal, O_CREAT | O_RDWR, S_IRUSR | S_IWUSR);
  require(file >= 0 && ftruncate(file, off_t(made->bytes)) == 0, "shared memory");
  void* mapped = mmap(nullptr, made->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  require(mapped != MAP_FAILED, "mmap");
  made->host = static_cast<std::byte*>(mapped);
  check(cudaHostRegister(mapped, made->bytes, cudaHostRegisterMapped), "cudaHostRegister");
  void* device = nullptr;
  check(cudaHostGetDevicePointer(&device, mapped, 0), "cudaHostGetDevicePointer");
  made->device = static_cast<std::byte*>(device);
  auto& attached = reinterpret_cast<Header*>(made->host)->attached;
  ++attached;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (attached < ranks) {
    require(std::chrono::steady_clock::now() < deadline, "waiting for the other ranks");
    const timespec nap = {0, 100'000};
    nanosleep(&nap, nullptr);
  }
  shm_unlink(id.internal);  // once is enough, and more do no harm: all have it mapped
  *comm = made;
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  cudaHostUnregister(comm->host);
  munmap(comm->host, comm->bytes);
  delete comm;
  return ncclSuccess;
}
// The memory stays: streams that wait for a lost rank still look at it.
ncclResult_t ncclCommAbort(ncclComm_t) {
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* state) {
  *state = ncclSuccess;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess ? "no error" : "not among what ranks of one GPU can do";
}
const char* ncclGetLastError(ncclComm_t) {
  return "";
}

ncclResult_t ncclGroupStart() {
  ++g_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  return --g_depth == 0 ? flush() : ncclSuccess;
}
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add({comm, stream, static_cast<const std::byte*>(data), nullptr, count * size_of(type), peer});
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add({comm, stream, nullptr, static_cast<std::byte*>(data), count * size_of(type), peer});
}
ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  std::byte* own = static_cast<std::byte*>(receive) + size_t(comm->rank) * bytes;
  if (own != send) check(cudaMemcpyAsync(own, send, bytes, cudaMemcpyDeviceToDevice, stream), "all-gather");
  ncclGroupStart();
  for (int peer = 0; peer < comm->ranks; ++peer) {
    if (peer == comm->rank) continue;
    ncclSend(send, count, type, peer, comm, stream);
    ncclRecv(static_cast<std::byte*>(receive) + size_t(peer) * bytes, count, type, peer, comm, stream);
  }
  return ncclGroupEnd();
}
ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  if (comm->rank != root) return ncclRecv(receive, count, type, root, comm, stream);
  if (send != receive)
    check(cudaMemcpyAsync(receive, send, count * size_of(type), cudaMemcpyDeviceToDevice, stream),
          "broadcast");
  ncclGroupStart();
  for (int peer = 0; peer < comm->ranks; ++peer)
    if (peer != root) ncclSend(send, count, type, peer, comm, stream);
  return ncclGroupEnd();
}

// NCCL's own sums, which benchmarks alone ask for.
ncclResult_t ncclAllReduce(const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                           cudaStream_t) {
  return not_here();
}
ncclResult_t ncclReduceScatter(const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                               cudaStream_t) {
  return not_here();
}
ncclResult_t ncclAlltoAll(const void*, void*, size_t, ncclDataType_t, ncclComm_t, cudaStream_t) {
  return not_here();
}

}  // extern "C"
