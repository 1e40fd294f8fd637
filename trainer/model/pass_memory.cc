#include "trainer/model/pass_memory.h"

#include <algorithm>
#include <cstring>

namespace cadre::trainer {

namespace {
constexpr size_t kPartAlignment = 64;
}

template <class W>
template <class U, int N>
void PassMemory<W>::put(device::View<U, N>& view, std::array<int64_t, N> shape) {
  std::byte* const at = memory_.data() == nullptr ? nullptr : memory_.data() + used_;  // null: only measured
  view = {reinterpret_cast<U*>(at), shape};
  used_ += (size_t(view.size()) * sizeof(U) + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
}

template <class W>
void PassMemory<W>::lay_out(const DecodeBatch& batch) {
  used_ = 0;
  put<W, 1>(logp, {size_.draws});
  put<int32_t, 1>(drawn_token, {size_.draws});
  results_ = inputs_ = used_;
  put<double, 1>(uniform, {size_.draws});
  put<int32_t, 1>(drawn, {size_.draws});
  for (device::View<int32_t, 1>* view : {&token, &position, &segment, &owner, &length, &place})
    put<int32_t, 1>(*view, {size_.rows});
  put<int32_t, 2>(page_table, {batch.num_sequences(), size_.pages_per_row});  // the last: its length varies
}

template <class W>
void PassMemory<W>::load(device::Queue& queue, const DecodeBatch& batch, const PassSize& size,
                         int64_t page_size) {
  size_ = size;
  lay_out(batch);
  if (used_ > memory_.bytes()) {
    queue.wait();  // nothing reads the old memory any more
    memory_ = device::Buffer(device_, 2 * used_);
    lay_out(batch);
  }
  host_.assign(used_, std::byte(0));
  std::copy(batch.uniform.begin(), batch.uniform.end(), image(uniform));
  std::copy(batch.drawn.begin(), batch.drawn.end(), image(drawn));
  std::copy(batch.token.begin(), batch.token.end(), image(token));
  std::copy(batch.position.begin(), batch.position.end(), image(position));
  std::copy(batch.page_table.begin(), batch.page_table.end(), image(page_table));
  int32_t *const to_segment = image(segment), *const to_owner = image(owner),
                 *const to_length = image(length), *const to_place = image(place);
  for (int64_t t = 0; t < size_.rows; ++t) {
    const int32_t sequence = t < batch.num_rows() ? batch.owner[size_t(t)] : -1;
    to_owner[t] = sequence;
    to_segment[t] = sequence < 0 ? -1 : 0;
    to_place[t] = -1;
    if (sequence < 0) continue;
    const int64_t at = batch.position[size_t(t)];
    const int32_t page = batch.page_table[size_t(sequence * size_.pages_per_row + at / page_size)];
    to_length[t] = int32_t(at + 1);
    to_place[t] = int32_t(page * page_size + at % page_size);
  }
  queue.upload(host_.data() + inputs_, memory_.data() + inputs_, used_ - inputs_);
}

template <class W>
void PassMemory<W>::fetch(device::Queue& queue) {
  fetched_.resize(results_);
  if (results_ > 0) queue.download(memory_.data(), fetched_.data(), results_);
}

template <class W>
Decoded<W> PassMemory<W>::finish(int64_t draws) const {
  Decoded<W> result{std::vector<int32_t>(size_t(draws)), std::vector<W>(size_t(draws))};
  if (draws == 0) return result;
  const auto offset = reinterpret_cast<const std::byte*>(drawn_token.data()) - memory_.data();
  std::memcpy(result.logp.data(), fetched_.data(), size_t(draws) * sizeof(W));
  std::memcpy(result.token.data(), fetched_.data() + offset, size_t(draws) * sizeof(int32_t));
  return result;
}

template class PassMemory<float>;
template class PassMemory<double>;

}  // namespace cadre::trainer
