#include "trainer/influence/score_tap.h"

#include <algorithm>

#include "parallel/device/transfer.h"

namespace cadre::trainer {
namespace {

// A view of at least `count` elements of a buffer that only grows.
template <class U>
device::View<U, 1> grown(device::Buffer& buffer, device::DeviceKind device, int64_t count) {
  const size_t bytes = size_t(count) * sizeof(U);
  if (buffer.bytes() < bytes) buffer = device::Buffer(device, bytes);
  return {reinterpret_cast<U*>(buffer.data()), {count}};
}

}  // namespace

template <class T>
ScoreTap<T>::ScoreTap(const ScoreTapContext<T>& context, const device::ParamStore<T>& direction)
    : context_(context),
      kernels_(influence_kernels<T>(context.queue->kind())),
      direction_(direction),
      sums_(context.queue->kind(), size_t(ranks() * context.max_tokens) * sizeof(double)) {}

template <class T>
template <class U>
device::View<U, 2> ScoreTap<T>::product(int64_t rows, int64_t width) {
  return grown<U>(product_, context_.queue->kind(), rows * width).template reshape<2>({rows, width});
}

template <class T>
device::View<double, 1> ScoreTap<T>::scores(int64_t rows) {
  return grown<double>(scores_, context_.queue->kind(), rows);
}

template <class T>
device::View<double, 1> ScoreTap<T>::token_sums() {
  return {reinterpret_cast<double*>(sums_.data()), {ranks() * context_.max_tokens}};
}

template <class T>
void ScoreTap<T>::add_named(int64_t rows, const int32_t* token, bool shared_tokens) {
  const View<double, 1> sums = shared_tokens ? token_sums() : own_sums();
  const View<int32_t, 1> memory =
      grown<int32_t>(lists_, context_.queue->kind(), token_sums().size() + 1 + rows);
  const View<int32_t, 1> offsets = memory.rows(0, sums.size() + 1),
                         list = memory.rows(token_sums().size() + 1, rows);
  context_.moe_kernels->slots_by_row(*context_.queue, {token, {rows}}, offsets, list);
  kernels_.add_lists_to_tokens(*context_.queue, scores(rows), offsets, list, sums);
}

template <class T>
void ScoreTap<T>::add_in_order(int64_t rows, int64_t rows_per_token) {
  kernels_.add_to_tokens(*context_.queue, scores(rows), rows_per_token, own_sums());
}

// b . (D a) is a GEMM and a dot for each row, on the narrower side: (D^T b) . a or b . (D a).
template <class T>
void ScoreTap<T>::on_linear(int param, View<const T, 2> a, View<const T, 2> b, const int32_t* token,
                            View<const int64_t, 1> group_offsets) {
  const int64_t rows = a.dim(0), in = a.dim(1), out = b.dim(1);
  if (rows == 0) return;
  device::Queue& queue = *context_.queue;
  const bool grouped = !group_offsets.empty(), input_side = in <= out;
  const View<T, 2> y = product<T>(rows, input_side ? in : out);
  if (grouped) {
    const View<const T, 3> d = direction_.template value<3>(param);
    if (input_side) {
      context_.moe_kernels->grouped_dgrad(queue, b, d, group_offsets, false, y);
    } else {
      context_.moe_kernels->grouped_gemm(queue, a, d, group_offsets, y);
    }
  } else {
    const device::Placement& place = direction_.layout().at(param);
    const View<const T, 2> d(direction_.values(place.group).data() + place.offset, {out, in});
    context_.kernels->gemm(queue, input_side ? b : a, d, y, {.transpose_b = !input_side});
  }
  kernels_.row_dots(queue, y, input_side ? a : b, scores(rows));
  if (token != nullptr) {
    add_named(rows, token, grouped);
  } else {
    add_in_order(rows, 1);
  }
}

template <class T>
void ScoreTap<T>::on_wide_linear(int param, View<const T, 2> a, View<const W, 2> b) {
  const int64_t rows = a.dim(0);
  if (rows == 0) return;
  const View<W, 2> y = product<W>(rows, b.dim(1));
  context_.moe_kernels->router_linear(*context_.queue, a, direction_.template value<2>(param), y);
  kernels_.wide_row_dots(*context_.queue, y, b, scores(rows));
  add_in_order(rows, 1);
}

template <class T>
void ScoreTap<T>::on_lookup(int param, View<const int32_t, 1> index, View<const T, 2> b) {
  if (b.dim(0) == 0) return;
  kernels_.lookup_dots(*context_.queue, b, index, direction_.template value<2>(param), scores(b.dim(0)));
  add_in_order(b.dim(0), 1);
}

template <class T>
void ScoreTap<T>::on_scale(int param, View<const T, 2> x, View<const W, 1> rstd, View<const T, 2> b,
                           int64_t rows_per_token) {
  if (b.dim(0) == 0) return;
  kernels_.scale_dots(*context_.queue, x, rstd, b, direction_.template value<1>(param), scores(b.dim(0)));
  add_in_order(b.dim(0), rows_per_token);
}

template <class T>
std::span<const double> ScoreTap<T>::finish(int64_t num_tokens) {
  const int64_t width = context_.max_tokens;
  std::vector<double> all(size_t(ranks() * width));
  device::download<double>(*context_.queue, token_sums(), all);
  device::zero(*context_.queue, token_sums());
  context_.queue->wait();
  own_.assign(size_t(width), 0);
  if (ranks() == 1) {
    own_ = std::move(all);
  } else {
    std::vector<int64_t> cuts;
    for (int r = 0; r <= ranks(); ++r) cuts.push_back(r * width);
    context_.expert->reduce_scatter(all.data(), cuts, own_.data(), "influence.tokens").wait();
  }
  return std::span(own_).first(size_t(num_tokens));
}

template class ScoreTap<float>;
template class ScoreTap<double>;
template class ScoreTap<device::bf16>;

}  // namespace cadre::trainer
