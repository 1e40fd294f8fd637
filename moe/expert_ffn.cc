#include "moe/expert_ffn.h"

namespace cadre::moe {
namespace {

device::ParamRow matrix_row(const std::string& name, std::vector<int64_t> shape, device::Group group,
                            double std, int bucket) {
  return {.name = name,
          .shape = std::move(shape),
          .group = group,
          .init = {device::Init::kNormal, std},
          .decay = true,
          .update = device::Update::kMatrix,
          .bucket = bucket};
}

}  // namespace

template <class T>
void ExpertFfn<T>::declare(device::ParamTable& table, const std::string& prefix, int bucket) {
  const int64_t e = shape_.num_experts, h = shape_.width, d = shape_.dim;
  const int64_t gate_in = shape_.hint_width > 0 ? shape_.hint_width : d;
  auto add = [&](const char* name, std::vector<int64_t> shape, double std, int width_axis) {
    auto row = matrix_row(prefix + ".experts." + name, std::move(shape), device::Group::kExpert, std, bucket);
    row.split_axis = shape_.width_parts > 1 ? width_axis : 0;
    return table.add(std::move(row));
  };
  gate_row_ = add("w_gate", {e, h, gate_in}, shape_.init_std, 1);
  up_row_ = add("w_up", {e, h, d}, shape_.init_std, 1);
  down_row_ = add("w_down", {e, d, h}, shape_.out_init_std, 2);
}

template <class T>
void ExpertFfn<T>::bind(device::ParamStore<T>& store) {
  w_gate_ = store.template value<3>(gate_row_);
  w_up_ = store.template value<3>(up_row_);
  w_down_ = store.template value<3>(down_row_);
  add_ = &store.adds();
  if (store.grads(device::Group::kDense).data() == nullptr) return;
  dw_gate_ = store.template grad<3>(gate_row_);
  dw_up_ = store.template grad<3>(up_row_);
  dw_down_ = store.template grad<3>(down_row_);
}

template <class T>
void ExpertFfn<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  const int64_t slots = shape_.max_slots, width = shape_.width / shape_.width_parts;
  for (auto* view : {&gate_, &up_}) *view = saved.take<T, 2>({slots, width});
  act_ = scratch.take<T, 2>({slots, width});
  for (auto* view : {&x_, &y_}) *view = scratch.take<T, 2>({slots, shape_.dim});
  dhint_ = scratch.take<T, 2>({slots, shape_.hint_width});
  dgate_ = scratch.take<W, 1>({slots});
}

template <class T>
void ExpertFfn<T>::expect(int64_t slots) {
  if (kernels_.expect_swiglu != nullptr && shape_.hint_width == 0)
    kernels_.expect_swiglu(queue_, slots, w_gate_, w_up_);
}

template <class T>
device::View<const T, 2> ExpertFfn<T>::forward(
    const ExpertSlots<T>& slots, absl::FunctionRef<void(device::View<const T, 2>)> others_there) {
  const int64_t n = slots.num_slots();
  const auto y = y_.rows(0, n);
  if (n == 0) return y;
  remake(slots);
  if (slots.rank_begins.empty() || kernels_.grouped_gemm_between == nullptr) {
    kernels_.grouped_gemm(queue_, act_.rows(0, n), w_down_, slots.offsets, y);
    return y;
  }
  const int64_t ranks = slots.rank_begins.dim(0) - 1;
  // Of the tokens of ranks [first, end).
  const auto outputs = [&](int64_t first, int64_t end) {
    if (first < end)
      kernels_.grouped_gemm_between(queue_, act_.rows(0, n), w_down_, slots.rank_begins[first],
                                    slots.rank_begins[end], y);
  };
  outputs(0, slots.rank);
  outputs(slots.rank + 1, ranks);
  others_there(y);
  outputs(slots.rank, slots.rank + 1);
  return y;
}

// And the activation, which forward needs.
template <class T>
void ExpertFfn<T>::remake(const ExpertSlots<T>& slots) {
  const int64_t n = slots.num_slots();
  if (n == 0) return;
  const auto x = x_.rows(0, n), gate = gate_.rows(0, n), up = up_.rows(0, n), act = act_.rows(0, n);
  kernels_.gather_rows(queue_, slots.rows, slots.slot_row, x);
  if (shape_.hint_width > 0) {
    kernels_.grouped_gemm(queue_, slots.slot_hint, w_gate_, slots.offsets, gate);
    kernels_.grouped_gemm(queue_, x, w_up_, slots.offsets, up);
    dense_.swiglu(queue_, gate, up, act);
  } else {
    kernels_.grouped_swiglu(queue_, x, w_gate_, w_up_, slots.offsets, gate, up, act);
  }
}

// Leaves dY in y_, the gradients of gate and up in their places and g act in act_: what backward_weights reads.
template <class T>
typename ExpertFfn<T>::Grads ExpertFfn<T>::backward(const ExpertSlots<T>& slots,
                                                    device::View<const T, 2> drows) {
  const int64_t n = slots.num_slots();
  const auto dy = y_.rows(0, n), gate = gate_.rows(0, n), up = up_.rows(0, n), act = act_.rows(0, n);
  const auto dx = x_.rows(0, n), dhint = dhint_.rows(0, n);
  const auto dgate = dgate_.rows(0, n);
  const bool hints = shape_.hint_width > 0;
  Grads grads{dx, {dgate, {}}};
  if (hints) grads.slots.hint = dhint;

  // dL/dg of a slot is <W_down^T dY, act>.
  kernels_.gather_rows(queue_, drows, slots.slot_row, dy);
  kernels_.grouped_swiglu_backward(queue_, dy, w_down_, slots.offsets, slots.slot_gate, gate, up, act, dgate);
  if (hints) {
    kernels_.grouped_dgrad(queue_, up, w_up_, slots.offsets, false, dx);
    kernels_.grouped_dgrad(queue_, gate, w_gate_, slots.offsets, false, dhint);
  } else {
    kernels_.grouped_dgrad_pair(queue_, up, w_up_, gate, w_gate_, slots.offsets, dx);
  }
  return grads;
}

template <class T>
void ExpertFfn<T>::backward_weights(const ExpertSlots<T>& slots, device::Tap<T>* tap) {
  const int64_t n = slots.num_slots();
  const auto x = x_.rows(0, n), dy = y_.rows(0, n), gate = gate_.rows(0, n), up = up_.rows(0, n);
  const auto act = act_.rows(0, n);
  const auto on_linear = [&](int row, device::View<const T, 2> a, device::View<const T, 2> b) {
    if (tap && n > 0) tap->on_linear(row, a, b, slots.slot_token.data(), slots.offsets);
  };
  // The weighted output is a linear layer of g act with gradient dY.
  kernels_.grouped_wgrad(queue_, dy, act, slots.offsets, *add_, dw_down_);
  on_linear(down_row_, act, dy);
  kernels_.gather_rows(queue_, slots.rows, slots.slot_row, x);
  const device::View<const T, 2> h = shape_.hint_width > 0 ? slots.slot_hint : device::View<const T, 2>(x);
  kernels_.grouped_wgrad(queue_, gate, h, slots.offsets, *add_, dw_gate_);
  kernels_.grouped_wgrad(queue_, up, x, slots.offsets, *add_, dw_up_);
  on_linear(gate_row_, h, gate);
  on_linear(up_row_, x, up);
}

template <class T>
void SharedFfn<T>::declare(device::ParamTable& table, const std::string& prefix, int bucket) {
  auto add = [&](const char* name, std::vector<int64_t> shape, double std) {
    return table.add(
        matrix_row(prefix + ".shared." + name, std::move(shape), device::Group::kDense, std, bucket));
  };
  gate_row_ = add("w_gate", {shape_.width, shape_.dim}, shape_.init_std);
  up_row_ = add("w_up", {shape_.width, shape_.dim}, shape_.init_std);
  down_row_ = add("w_down", {shape_.dim, shape_.width}, shape_.out_init_std);
}

template <class T>
void SharedFfn<T>::bind(device::ParamStore<T>& store) {
  w_gate_ = store.template value<2>(gate_row_);
  w_up_ = store.template value<2>(up_row_);
  w_down_ = store.template value<2>(down_row_);
  add_ = &store.adds();
  if (store.grads(device::Group::kDense).data() == nullptr) return;
  dw_gate_ = store.template grad<2>(gate_row_);
  dw_up_ = store.template grad<2>(up_row_);
  dw_down_ = store.template grad<2>(down_row_);
}

template <class T>
void SharedFfn<T>::reserve(device::Arena& saved, device::Arena& scratch) {
  for (auto* view : {&gate_, &up_}) *view = saved.take<T, 2>({max_tokens_, shape_.width});
  for (auto* view : {&act_, &dact_}) *view = scratch.take<T, 2>({max_tokens_, shape_.width});
}

template <class T>
void SharedFfn<T>::forward(device::View<const T, 2> x, device::View<T, 2> y) {
  const int64_t n = x.dim(0);
  if (n == 0) return;
  remake(x);
  const auto act = act_.rows(0, n);
  dense_.swiglu(queue_, gate_.rows(0, n), up_.rows(0, n), act);
  dense_.gemm(queue_, act, w_down_, y, {.transpose_b = true});
}

template <class T>
void SharedFfn<T>::remake(device::View<const T, 2> x) {
  const int64_t n = x.dim(0);
  if (n == 0) return;
  dense_.gemm(queue_, x, w_gate_, gate_.rows(0, n), {.transpose_b = true});
  dense_.gemm(queue_, x, w_up_, up_.rows(0, n), {.transpose_b = true});
}

template <class T>
void SharedFfn<T>::backward(device::View<const T, 2> x, device::View<const T, 2> dy, device::View<T, 2> dx,
                            device::Tap<T>* tap) {
  const int64_t n = x.dim(0);
  const double beta = *add_ ? 1 : 0;
  const auto gate = gate_.rows(0, n), up = up_.rows(0, n), act = act_.rows(0, n), dact = dact_.rows(0, n);
  dense_.gemm(queue_, dy, w_down_, dact, {});
  dense_.swiglu_backward(queue_, dact, gate, up, gate, up, act);  // gate and up become their gradients
  dense_.gemm(queue_, dy, act, dw_down_, {.transpose_a = true, .beta = beta});
  if (tap) tap->on_linear(down_row_, act, dy, nullptr, {});
  dense_.gemm(queue_, gate, x, dw_gate_, {.transpose_a = true, .beta = beta});
  dense_.gemm(queue_, up, x, dw_up_, {.transpose_a = true, .beta = beta});
  if (tap) {
    tap->on_linear(gate_row_, x, gate, nullptr, {});
    tap->on_linear(up_row_, x, up, nullptr, {});
  }
  dense_.gemm(queue_, gate, w_gate_, dx, {});
  dense_.gemm(queue_, up, w_up_, dx, {.beta = 1});
}

template class ExpertFfn<float>;
template class ExpertFfn<double>;
template class ExpertFfn<device::bf16>;
template class SharedFfn<float>;
template class SharedFfn<double>;
template class SharedFfn<device::bf16>;

}  // namespace cadre::moe
