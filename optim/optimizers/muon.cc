#include "optim/optimizers/muon.h"

#include <algorithm>
#include <cmath>

namespace cadre::optim {
namespace {

using device::Group;
using device::View;

template <class T>
class Muon final : public Optimizer<device::wide_t<T>> {
 public:
  using W = device::wide_t<T>;
  Muon(const MuonConfig& config, OptimizerContext<T> context)
      : config_(config), context_(std::move(context)) {
    int64_t largest = 0, side = 0;
    for (int g = 0; g < device::kNumGroups; ++g) {
      const size_t bytes = size_t(context_.state_size[g]) * sizeof(W);
      for (auto* memory : {&m_[g], &v_[g]}) *memory = context_.allocate(bytes);
      for (const comm::Piece& piece : context_.pieces[g]) {
        if (!is_matrix(piece)) continue;
        const auto [rows, cols] = shape(piece);
        largest = std::max(largest, rows * cols);
        side = std::max(side, std::min(rows, cols));
      }
    }
    scratch_ = context_.allocate(size_t(2 * largest + 2 * side * side) * sizeof(T));
    next_offset_ = largest;
    gram_offset_ = 2 * largest;
    gram2_offset_ = 2 * largest + side * side;
  }

  void step(double lr, double grad_scale, const BucketHook& updated) override {
    ++this->updates_;
    const device::ParamTable& table = context_.store->layout().table();
    const auto update = [&](Group group, const comm::Piece& piece) {
      if (!is_matrix(piece)) {
        return adamw_piece(context_, config_.adamw, group, piece, lr, grad_scale, this->updates_,
                           {state("m", group), state("v", group), {}, {}});
      }
      const int64_t size = table.row(piece.row).matrix_numel();
      assert(piece.count % size == 0);
      for (int64_t at = 0; at < piece.count; at += size)
        update_matrix(group, piece, at, size, lr, grad_scale);
    };
    for_each_piece(context_, context_.pieces, table, update, updated);
  }

  std::vector<std::string> state_names() const override { return {"m", "v"}; }
  bool has_state(const std::string& name, const device::ParamRow& row) const override {
    return name == "m" || row.update == device::Update::kElement;
  }
  View<W, 1> state(const std::string& name, Group group) override {
    const device::Buffer& memory = name == "m" ? m_[int(group)] : v_[int(group)];
    return View<W, 1>(reinterpret_cast<W*>(memory.data()), {context_.state_size[int(group)]});
  }
  size_t bytes() const override {
    size_t sum = scratch_.bytes();
    for (int g = 0; g < device::kNumGroups; ++g) sum += m_[g].bytes() + v_[g].bytes();
    return sum;
  }
  // Muon's preconditioner is a matrix function of the momentum, not a diagonal: for matrix rows the gradient
  // is passed through unchanged.
  void precondition(Group group, const comm::Piece& piece, View<const W, 1> grad,
                    View<W, 1> out) const override {
    W* const v = reinterpret_cast<W*>(v_[int(group)].data()) + piece.state_offset;
    const int64_t updates = is_matrix(piece) ? 0 : this->updates_;
    adamw_precondition<T>(context_, config_.adamw, updates, {{}, View<W, 1>(v, {piece.count}), {}, {}}, grad,
                          out);
  }

 private:
  bool is_matrix(const comm::Piece& piece) const {
    return context_.store->layout().table().row(piece.row).update == device::Update::kMatrix;
  }
  std::pair<int64_t, int64_t> shape(const comm::Piece& piece) const {
    const auto& dims = context_.store->layout().table().row(piece.row).shape;
    return {dims[dims.size() - 2], dims[dims.size() - 1]};
  }
  View<T, 2> scratch(int64_t offset, int64_t rows, int64_t cols) const {
    return View<T, 2>(reinterpret_cast<T*>(scratch_.data()) + offset, {rows, cols});
  }

  void update_matrix(Group group, const comm::Piece& piece, int64_t at, int64_t size, double lr,
                     double grad_scale) {
    const auto [rows, cols] = shape(piece);
    const device::ParamStore<T>& store = *context_.store;
    const device::OwnedRange range = piece.range().part(at, size);
    const View<W, 1> m = state("m", group).rows(piece.state_offset + at, size);
    const View<T, 2> x = scratch(0, rows, cols);
    context_.optim_kernels->momentum(*context_.queue, config_.momentum, config_.nesterov, grad_scale,
                                     store.own_grads(group, range), store.own_grad_sums(group, range), m,
                                     x.template reshape<1>({size}));
    const int64_t side = std::min(rows, cols);
    newton_schulz<T>(*context_.queue, *context_.kernels, *context_.optim_kernels, config_.iterations, x,
                     scratch(gram_offset_, side, side), scratch(gram2_offset_, side, side),
                     scratch(next_offset_, rows, cols));
    const bool decay = store.layout().table().row(piece.row).decay;
    const double keep = 1 - lr * (decay ? config_.adamw.weight_decay : 0);
    const double rate = lr * 0.2 * std::sqrt(double(std::max(rows, cols)));
    context_.optim_kernels->subtract(*context_.queue, keep, rate, x.template reshape<1>({size}),
                                     store.own_values(group, range), store.own_masters(group, range));
  }

  MuonConfig config_;
  OptimizerContext<T> context_;
  device::Buffer m_[device::kNumGroups];  // momentum of matrices; first moment of the rest
  device::Buffer v_[device::kNumGroups];  // second moment; pages of matrix rows are never touched
  device::Buffer scratch_;
  int64_t next_offset_ = 0, gram_offset_ = 0, gram2_offset_ = 0;
};

}  // namespace

template <class T>
void newton_schulz(device::Queue& queue, const device::DeviceKernels<T>& kernels,
                   const OptimKernels<T>& optim_kernels, int iterations, View<T, 2> x, View<T, 2> gram,
                   View<T, 2> gram2, View<T, 2> next) {
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  optim_kernels.normalize(queue, x.template reshape<1>({x.size()}));
  const auto copy = [&](View<T, 2> from, View<T, 2> to) {
    kernels.copy(queue, from.template reshape<1>({from.size()}), to.template reshape<1>({to.size()}));
  };
  const bool tall = x.dim(0) > x.dim(1);  // the Gram matrix of the short side is the cheaper one
  for (int i = 0; i < iterations; ++i) {
    // x <- a x + b (x x^T) x + c (x x^T)^2 x, or the same from the right when x is tall.
    kernels.gemm(queue, x, x, gram, {.transpose_a = tall, .transpose_b = !tall});
    copy(gram, gram2);
    kernels.gemm(queue, gram, gram, gram2, {.alpha = c, .beta = b});
    copy(x, next);
    if (tall) {
      kernels.gemm(queue, x, gram2, next, {.alpha = 1, .beta = a});
    } else {
      kernels.gemm(queue, gram2, x, next, {.alpha = 1, .beta = a});
    }
    copy(next, x);
  }
}

template <class T>
std::unique_ptr<Optimizer<device::wide_t<T>>> make_muon(base::Section section, OptimizerContext<T> context) {
  MuonConfig config;
  config.momentum = section.number("momentum", config.momentum, {.min = 0, .below = 1});
  config.nesterov = section.boolean("nesterov", config.nesterov);
  config.iterations = int(section.integer("iterations", config.iterations, {.min = 1, .max = 20}));
  config.adamw = read_adamw(section);
  section.finish();
  return std::make_unique<Muon<T>>(config, std::move(context));
}

#define CADRE_INSTANTIATE(T)                                                                                \
  template void newton_schulz(device::Queue&, const device::DeviceKernels<T>&, const OptimKernels<T>&, int, \
                              View<T, 2>, View<T, 2>, View<T, 2>, View<T, 2>);                              \
  template std::unique_ptr<Optimizer<device::wide_t<T>>> make_muon(base::Section, OptimizerContext<T>);
CADRE_INSTANTIATE(float)
CADRE_INSTANTIATE(double)
CADRE_INSTANTIATE(device::bf16)
#undef CADRE_INSTANTIATE

}  // namespace cadre::optim
