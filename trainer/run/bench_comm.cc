#include "trainer/run/bench_comm.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "moe/dispatch.h"
#include "moe/kernels.h"
#include "parallel/base/log.h"
#include "parallel/base/rng.h"
#include "parallel/comm/native.h"
#include "parallel/device/peer.h"
#include "parallel/device/transfer.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {
namespace {

using comm::Dtype;
using device::bf16;
using device::DeviceKind;

class Bench {
 public:
  Bench(const CommBenchConfig& config, comm::World& world)
      : config_(config), mesh_(world, {.ep = world.size()}), host_(1) {
    RunConfig run;
    run.device = config.device;
    run.source = "bench comm";
    owned_ = make_queue(run, world, mesh_);
    queue_ = owned_ ? owned_.get() : &host_;
    for (device::Buffer* buffer : {&send_, &receive_})
      *buffer =
          device::Buffer(kind(), (size_t(config.max_bytes) / device::kPeerPage + 1) * device::kPeerPage);
  }

  std::vector<CommSample> run() {
    for (int64_t bytes = int64_t(256) << 10; bytes <= config_.max_bytes; bytes *= 4) {
      collectives(bytes);
      native(bytes);
      if (kind() == DeviceKind::kCpu) {
        dispatch<float>(bytes, moe::DispatchKind::kAuto);
        continue;
      }
      copies(bytes);
      dispatch<bf16>(bytes, moe::DispatchKind::kGather);
      peer_dispatches(bytes);
    }
    return samples_;
  }

 private:
  DeviceKind kind() const { return queue_->kind(); }
  comm::Communicator& group() { return mesh_.data_tensors(); }

  // The median over the repeats, of the slowest rank.
  void time(const std::string& what, int64_t bytes, double wire_share, const std::function<void()>& call) {
    std::vector<double> seconds;
    constexpr int kWarmUp = 2;
    for (int i = -kWarmUp; i < config_.repeats; ++i) {
      queue_->wait();
      mesh_.data().barrier("bench");
      const auto start = std::chrono::steady_clock::now();
      call();
      queue_->wait();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (i >= 0) seconds.push_back(took.count());
    }
    std::sort(seconds.begin(), seconds.end());
    const double slowest =
        mesh_.data().all_reduce(seconds[seconds.size() / 2], comm::ReduceOp::kMax, "bench");
    samples_.push_back({what, bytes, slowest, wire_share});
  }

  struct Parts {
    std::vector<int64_t> counts, begins;
  };
  // Shares of `count` in the ratio of the weights.
  static Parts parts_of(int64_t count, const std::vector<double>& weights) {
    double all = 0, before = 0;
    for (const double w : weights) all += w;
    Parts parts;
    for (const double w : weights) {
      const auto begin = int64_t(double(count) * before / all),
                 end = int64_t(double(count) * (before + w) / all);
      parts.begins.push_back(begin);
      parts.counts.push_back(end - begin);
      before += w;
    }
    return parts;
  }

  void collectives(int64_t bytes) {
    // What the CPU can add up and what GPUs train in.
    kind() == DeviceKind::kCpu ? sums<float>(bytes) : sums<bf16>(bytes);
    const int ranks = group().size(), self = group().rank();
    const double share = double(ranks - 1) / ranks;
    const Parts even = parts_of(bytes, std::vector<double>(size_t(ranks), 1));
    time("all-gather", bytes, share, [&] {
      group()
          .all_gather(receive_.data() + even.begins[size_t(self)], even.counts[size_t(self)], receive_.data(),
                      even.counts, even.begins, Dtype::kByte, "bench")
          .then(*queue_);
    });
    time("all-to-all", bytes, share, [&] {
      group()
          .all_to_all(send_.data(), even.counts, even.begins, receive_.data(), even.counts, even.begins,
                      Dtype::kByte, "bench")
          .then(*queue_);
    });
    // Rank 0 gets as much from everybody as all others together; what is sent in all is the same.
    std::vector<double> weights(size_t(ranks), 1);
    weights[0] = ranks > 1 ? ranks - 1 : 1;
    const Parts uneven = parts_of(bytes, weights);
    const Parts mine = parts_of(uneven.counts[size_t(self)] * ranks, std::vector<double>(size_t(ranks), 1));
    Parts from = mine;  // every rank sends me the same
    std::fill(from.counts.begin(), from.counts.end(), uneven.counts[size_t(self)]);
    for (int r = 0; r < ranks; ++r) from.begins[size_t(r)] = r * uneven.counts[size_t(self)];
    if (receive_.bytes() < size_t(ranks) * size_t(bytes))
      receive_ = device::Buffer(kind(), size_t(ranks) * size_t(bytes));
    time("all-to-all, uneven", bytes, share, [&] {
      group()
          .all_to_all(send_.data(), uneven.counts, uneven.begins, receive_.data(), from.counts, from.begins,
                      Dtype::kByte, "bench")
          .then(*queue_);
    });
  }

  template <class T>
  void sums(int64_t bytes, const std::string& how = "") {
    const int ranks = group().size(), self = group().rank();
    const double share = double(ranks - 1) / ranks;
    const int64_t count = bytes / int64_t(sizeof(T));
    Parts parts = parts_of(count, std::vector<double>(size_t(ranks), 1));
    std::vector<int64_t> cuts = parts.begins;
    cuts.push_back(count);
    T* data = reinterpret_cast<T*>(send_.data());
    T* own = data + cuts[size_t(self)];
    const auto scatter = [&] { group().reduce_scatter(data, cuts, own, "bench").then(*queue_); };
    time("reduce-scatter" + how, bytes, share, scatter);
    time("all-reduce" + how, bytes, 2 * share, [&] {
      scatter();
      group()
          .all_gather(own, parts.counts[size_t(self)], data, parts.counts, parts.begins, comm::dtype_of<T>(),
                      "bench")
          .then(*queue_);
    });
  }

  // As gradients and values travel between GPUs of one host.
  void copies(int64_t bytes) {
    group().share(send_.data(), send_.bytes());
    if (group().copies(send_.data())) sums<bf16>(bytes, ", copy engines");
    queue_->wait();
    group().end_sharing();
  }

  void native(int64_t bytes) {
    for (const comm::NativeCollective& entry : comm::native_collectives(group())) {
      time(entry.name, bytes, entry.wire_share,
           [&] { entry.run(send_.data(), receive_.data(), bytes, *queue_); });
    }
  }

  template <class T>
  void dispatch(int64_t bytes, moe::DispatchKind how);
  void peer_dispatches(int64_t bytes);

  const CommBenchConfig config_;
  comm::Mesh mesh_;
  device::CpuQueue host_;
  std::unique_ptr<device::Queue> owned_;
  device::Queue* queue_ = nullptr;
  device::Buffer send_, receive_;
  std::vector<CommSample> samples_;
  bool peers_reachable_ = true;
};

// The router's lists for random choices of 8 of 64 experts.
template <class T>
struct RandomSlots {
  static constexpr int kExperts = 64, kTopK = 8;
  RandomSlots(device::Queue& queue, const moe::MoeKernels<T>& kernels, int64_t tokens, int rank,
              device::Arena& arena) {
    using W = device::wide_t<T>;
    const auto choice = arena.take<int32_t, 2>({tokens, kTopK});
    const auto gates = arena.take<W, 2>({tokens, kExperts});
    routing.num_tokens = routing.num_real = tokens;
    routing.num_experts = kExperts;
    routing.num_slots = tokens * kTopK;
    routing.expert_offsets = arena.take<int64_t, 1>({kExperts + 1});
    routing.tally = arena.take<int64_t, 1>({kExperts + 1});
    routing.slot_token = arena.take<int32_t, 1>({tokens * kTopK});
    routing.slot_gate = arena.take<W, 1>({tokens * kTopK});
    if (arena.measuring()) return;
    std::vector<int32_t> chosen;
    const base::Philox random(base::mix(17, uint64_t(rank)));
    for (int64_t t = 0; t < tokens; ++t) {
      // Eight different ones in rising order: one of each eighth.
      for (int k = 0; k < kTopK; ++k)
        chosen.push_back(int32_t(k * kTopK + int(random.bits(uint64_t(t), uint64_t(k)) % kTopK)));
    }
    device::upload(queue, chosen, choice.template reshape<1>({choice.size()}));
    device::upload(queue, std::vector<W>(size_t(gates.size()), W(1) / kTopK),
                   gates.template reshape<1>({gates.size()}));
    kernels.top_k_slots(queue, choice, gates, routing);
    queue.wait();
  }
  moe::Routing<T> routing;
};

template <class T>
void Bench::dispatch(int64_t bytes, moe::DispatchKind how) {
  constexpr int64_t kDim = 2048;
  const int ranks = mesh_.expert().size();
  if (RandomSlots<T>::kExperts % ranks != 0 || ranks == 1) return;
  const int64_t tokens = bytes / (kDim * int64_t(sizeof(T)));
  const moe::MoeKernels<T>& kernels = moe::moe_kernels<T>(kind());
  const auto dispatcher =
      moe::make_dispatcher<T>(*queue_, kernels, {mesh_.expert_tensors(), mesh_.expert_peers()},
                              {.dim = kDim,
                               .max_tokens = tokens,
                               .max_slots = tokens * RandomSlots<T>::kTopK,
                               .num_experts = RandomSlots<T>::kExperts},
                              how);
  device::Arena saved("bench", kind()), scratch("bench scratch", kind());
  device::View<T, 2> x, y, out;
  std::optional<RandomSlots<T>> slots;
  const auto reserve = [&] {
    dispatcher->reserve(saved, scratch);
    for (device::View<T, 2>* view : {&x, &y}) *view = saved.take<T, 2>({tokens, kDim});
    out = saved.take<T, 2>({dispatcher->max_slots(), kDim});
    slots.emplace(*queue_, kernels, tokens, mesh_.expert().rank(), saved);
  };
  reserve();
  saved.allocate();
  scratch.allocate();
  scratch.release(0);
  reserve();
  // Of each direction; what each rank has to send is its rows to the others, there and back.
  std::string name = "dispatch + combine";
  if (how == moe::DispatchKind::kPeer || how == moe::DispatchKind::kCopy)
    name += fmt::format(", {}", moe::name_of(how));
  time(name, 2 * bytes, double(ranks - 1), [&] {
    dispatcher->start_tokens(x);
    dispatcher->send_tokens(x, slots->routing);
    const auto& work = dispatcher->receive_tokens();
    dispatcher->combine(out.rows(0, work.num_slots()), false, y);
  });
}

// Beside that one, where the ranks can read each other's memory; all of them hear of it when they cannot.
void Bench::peer_dispatches(int64_t bytes) {
  if (!peers_reachable_) return;
  try {
    dispatch<bf16>(bytes, moe::DispatchKind::kPeer);
    dispatch<bf16>(bytes, moe::DispatchKind::kCopy);
  } catch (const Error& error) {
    if (error.code() != ExitCode::kUsage) throw;
    spdlog::warn("no rows for peer and copy dispatch: {}", error.what());
    peers_reachable_ = false;
  }
}

}  // namespace

std::vector<CommSample> bench_collectives(const CommBenchConfig& config, comm::World& world) {
  return Bench(config, world).run();
}

}  // namespace cadre::trainer
