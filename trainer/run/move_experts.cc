#include "trainer/run/move_experts.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "moe/placement.h"
#include "parallel/device/transfer.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {
namespace {

using comm::Piece;
using device::Group;
using device::View;

constexpr int64_t kMessage = int64_t(4) << 20;  // elements at a time

template <class U>
void copy(device::Queue& queue, View<const U, 1> from, View<U, 1> to) {
  if (queue.kind() == device::DeviceKind::kCpu) {
    std::memcpy(to.data(), from.data(), size_t(from.size()) * sizeof(U));
  } else {
    device::device_kernels<U>(queue.kind()).copy(queue, from, to);
  }
}

// Renumbers the experts of layers, one after the other. T: what the device stores.
template <class T>
class Mover {
 public:
  explicit Mover(TrainState& state)
      : state_(state),
        queue_(state.model.queue),
        store_(static_cast<device::ParamStore<T>&>(state.model.store)),
        expert_(state.model.mesh.expert_tensors()),
        experts_(state.config().moe->num_experts),
        slots_(experts_ / expert_.size()),
        staging_(queue_.kind(), size_t(largest_message()) * sizeof(Real)) {}
  ~Mover() { queue_.wait(); }

  void move(const std::string& prefix, const std::vector<int>& source) {
    for (const Piece& piece : state_.optimizer_context.pieces[int(Group::kExpert)]) {
      if (!row(piece).name.starts_with(prefix)) continue;
      for_each_memory(Group::kExpert, piece, [&](auto view) { exchange(piece, view, source); });
    }
    for (int id = 0; id < int(state_.model.table.rows().size()); ++id) {
      const device::ParamRow& row = state_.model.table.row(id);
      if (row.group == Group::kDense && row.name.starts_with(prefix + "router.")) permute(id, source);
    }
  }

 private:
  const device::ParamRow& row(const Piece& piece) const { return state_.model.table.row(piece.row); }

  int64_t largest_message() const {
    int64_t largest = 0;
    for (const device::ParamRow& row : state_.model.table.rows())
      if (row.group == Group::kExpert) largest = std::max(largest, row.numel() / row.shape[0]);
    return std::min(largest, kMessage);
  }

  // Everything that lies in this rank's slices: values, masters, optimizer states, averaged gradients of influence
  // targets. The same number of calls for every rank, whatever it owns.
  template <class Body>
  void for_each_memory(Group group, const Piece& piece, const Body& body) {
    body(store_.own_values(group, piece.range()));
    if constexpr (!device::ParamStore<T>::kWide) body(store_.own_masters(group, piece.range()));
    for (const std::string& name : state_.optimizer->state_names()) {
      if (!state_.optimizer->has_state(name, row(piece))) continue;
      const auto narrow = state_.optimizer->narrow_state(name, group);
      if (narrow.empty()) {
        body(state_.optimizer->state(name, group).rows(piece.state_offset, piece.count));
      } else {
        body(narrow.rows(piece.state_offset, piece.count));
      }
    }
    if (!state_.probe || !state_.probe->has_gradients()) return;
    for (size_t target = 0; target < state_.probe->targets().size(); ++target)
      body(state_.probe->gradient(target, group).rows(piece.state_offset, piece.count));
  }

  // Of an expert row's piece: the ranks of an expert group own the same part of their own experts.
  template <class U>
  void exchange(const Piece& piece, View<U, 1> view, const std::vector<int>& source) {
    const int64_t unit = row(piece).numel() / experts_;
    for (int slot = 0; slot < slots_; ++slot) {
      const int own = expert_.rank() * slots_ + slot;
      bool moves = false;
      for (int rank = 0; rank < expert_.size(); ++rank)
        moves |= source[size_t(rank * slots_ + slot)] != rank * slots_ + slot;
      if (!moves) continue;
      const int from = source[size_t(own)] / slots_;
      const int to = int(std::find(source.begin(), source.end(), own) - source.begin()) / slots_;
      const int64_t begin = std::max(slot * unit, piece.row_begin),
                    end = std::min((slot + 1) * unit, piece.row_begin + piece.count);
      for (int64_t at = begin; at < end; at += kMessage)
        exchange(view.rows(at - piece.row_begin, std::min(kMessage, end - at)), from, to);
    }
  }
  template <class U>
  void exchange(View<U, 1> part, int from, int to) {
    const int64_t bytes = part.size() * int64_t(sizeof(U));
    std::vector<int64_t> send(size_t(expert_.size())), receive(send), begin(send);
    if (from != expert_.rank()) receive[size_t(from)] = send[size_t(to)] = bytes;
    expert_
        .all_to_all(part.data(), send, begin, staging_.data(), receive, begin, comm::Dtype::kByte,
                    "move experts")
        .then(queue_);
    if (from != expert_.rank())
      copy<U>(queue_, View<U, 1>(reinterpret_cast<U*>(staging_.data()), {part.size()}), part);
  }

  // Of a dense row (E, ...), of which every rank owns a part.
  void permute(int id, const std::vector<int>& source) {
    const auto& pieces = state_.optimizer_context.pieces[int(Group::kDense)];
    const auto found =
        std::find_if(pieces.begin(), pieces.end(), [&](const Piece& p) { return p.row == id; });
    const Piece piece = found != pieces.end() ? *found : Piece{.row = id};
    const int64_t numel = row(piece).numel(), unit = numel / experts_;
    for_each_memory(Group::kDense, piece, [&](auto view) {
      using U = std::remove_reference_t<decltype(view[0])>;
      std::vector<U> own(static_cast<size_t>(piece.count));
      device::download<U>(queue_, view, own);
      queue_.wait();
      std::vector<Real> whole(static_cast<size_t>(numel));
      std::copy(own.begin(), own.end(), whole.begin() + piece.row_begin);
      // One addend of every sum is not 0.
      if (state_.config().mesh.zero > 0)
        state_.model.mesh.data().all_reduce(std::span<Real>(whole), comm::ReduceOp::kSum, "move experts");
      for (int64_t i = 0; i < piece.count; ++i) {
        const int64_t at = piece.row_begin + i;
        own[size_t(i)] = U(whole[size_t(source[size_t(at / unit)] * unit + at % unit)]);
      }
      device::upload(queue_, own, view);
    });
  }

  TrainState& state_;
  device::Queue& queue_;
  device::ParamStore<T>& store_;
  comm::Communicator& expert_;
  const int experts_, slots_;
  device::Buffer staging_;
};

// Selection biases, loads of the last batch.
void permute_state(moe::StateDict& state, const std::string& prefix, const std::vector<int>& source) {
  for (auto& [name, values] : state) {
    if (!name.starts_with(prefix) || values.size() != source.size()) continue;
    const std::vector<double> old = values;
    for (size_t e = 0; e < source.size(); ++e) values[e] = old[size_t(source[e])];
  }
}

std::string describe(int layer, const std::vector<double>& loads, const std::vector<int>& source, int ranks) {
  std::vector<double> after;
  std::vector<std::string> moves;
  for (size_t e = 0; e < source.size(); ++e) {
    after.push_back(loads[size_t(source[e])]);
    if (source[e] != int(e)) moves.push_back(fmt::format("{} to {}", source[e], e));
  }
  return fmt::format("layer {}: the fullest rank's load falls from {:.3f} to {:.3f} of the mean; experts {}",
                     layer, moe::fullest_rank(loads, ranks), moe::fullest_rank(after, ranks),
                     fmt::join(moves, ", "));
}

template <class T>
std::vector<std::string> move_layers(TrainState& state, const std::vector<std::vector<double>>& loads) {
  ModelState& model = state.model;
  const int ranks = model.mesh.expert().size();
  std::vector<std::string> lines;
  std::optional<Mover<T>> mover;
  moe::StateDict balance = model.decoder.save_state();
  size_t next = 0;
  for (int layer = 0; layer < model.config.model.layers; ++layer) {
    if (!model.config.model.is_moe(layer)) continue;
    const std::vector<double>& load = loads.at(next++);
    const std::vector<int> source = moe::place_by_load(load, ranks);
    if (std::is_sorted(source.begin(), source.end())) continue;
    if (!mover) {  // nothing is under way, and nobody reads what is about to change
      state.reducer.finish_values();
      if (state.before_update) state.before_update();
      mover.emplace(state);
    }
    const std::string prefix = fmt::format("layers.{}.moe.", layer);
    mover->move(prefix, source);
    permute_state(balance, prefix, source);
    lines.push_back(describe(layer, load, source, ranks));
  }
  if (!mover) return lines;
  mover.reset();
  model.decoder.load_state(balance);
  // As from a checkpoint: random rounding goes by places, and other ranks have not seen the new values.
  state.optimizer->restore_values();
  for (int bucket = 0; bucket < model.table.num_buckets(); ++bucket) state.reducer.gather_values(bucket);
  state.reducer.finish_values();
  return lines;
}

}  // namespace

std::vector<std::string> move_experts(TrainState& state, const std::vector<std::vector<double>>& loads) {
  return state.model.bf16() ? move_layers<device::bf16>(state, loads) : move_layers<Real>(state, loads);
}

}  // namespace cadre::trainer
