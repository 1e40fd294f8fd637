#include "trainer/model/pass_memory.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace cadre::trainer {

namespace {
constexpr size_t kPartAlignment = 64;

size_t aligned(size_t bytes) {
  return (bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
}
}  // namespace

template <class W>
PassMemory<W>::PassMemory(device::DeviceKind device, int64_t most_draws)
    : device_(device),
      most_draws_(most_draws),
      results_(device, aligned(size_t(most_draws) * sizeof(int32_t)) + size_t(most_draws) * sizeof(W)) {}

template <class W>
template <class U, int N>
void PassMemory<W>::put(device::View<U, N>& view, std::array<int64_t, N> shape) {
  std::byte* const at = inputs_.data() == nullptr ? nullptr : inputs_.data() + used_;  // null: only measured
  view = {reinterpret_cast<U*>(at), shape};
  used_ += aligned(size_t(view.size()) * sizeof(U));
}

template <class W>
void PassMemory<W>::lay_out(const DecodeBatch& batch) {
  drawn_token = {reinterpret_cast<int32_t*>(results_.data()), {size_.draws}};
  logp = {reinterpret_cast<W*>(results_.data() + aligned(size_t(size_.draws) * sizeof(int32_t))),
          {size_.draws}};
  used_ = 0;
  put<double, 1>(uniform, {size_.draws});
  put<int32_t, 1>(drawn, {size_.draws});
  for (device::View<int32_t, 1>* view : {&token, &position, &segment, &owner, &length, &place, &follows})
    put<int32_t, 1>(*view, {size_.rows});
  put<int32_t, 2>(page_table, {batch.num_sequences(), size_.pages_per_row});  // the last: its length varies
}

template <class W>
void PassMemory<W>::load(device::Queue& queue, const DecodeBatch& batch, const PassSize& size,
                         int64_t page_size) {
  size_ = size;
  lay_out(batch);
  if (used_ > inputs_.bytes()) {
    queue.wait();  // nothing reads the old memory any more
    inputs_ = device::Buffer(device_, 2 * used_);
    lay_out(batch);
  }
  host_.assign(used_, std::byte(0));
  std::copy(batch.uniform.begin(), batch.uniform.end(), image(uniform));
  std::copy(batch.drawn.begin(), batch.drawn.end(), image(drawn));
  std::copy(batch.token.begin(), batch.token.end(), image(token));
  std::copy(batch.position.begin(), batch.position.end(), image(position));
  std::copy(batch.page_table.begin(), batch.page_table.end(), image(page_table));
  int32_t *const to_segment = image(segment), *const to_owner = image(owner),
                 *const to_length = image(length), *const to_place = image(place),
                 *const to_follows = image(follows);
  for (int64_t t = 0; t < size_.rows; ++t) {
    const int32_t sequence = t < batch.num_rows() ? batch.owner[size_t(t)] : -1;
    to_owner[t] = sequence;
    to_segment[t] = sequence < 0 ? -1 : 0;
    to_place[t] = -1;
    to_follows[t] = size_t(t) < batch.follows.size() ? batch.follows[size_t(t)] : -1;
    if (sequence < 0) continue;
    const int64_t at = batch.position[size_t(t)];
    const int32_t page = batch.page_table[size_t(sequence * size_.pages_per_row + at / page_size)];
    to_length[t] = int32_t(at + 1);
    to_place[t] = int32_t(page * page_size + at % page_size);
  }
  queue.upload(host_.data(), inputs_.data(), used_);
}

template <class W>
void PassMemory<W>::fetch(device::Queue& queue, int64_t draws) {
  assert(started_ - finished_ < fetches_.size());
  Fetch& f = fetches_[started_++ % fetches_.size()];
  if (f.delivery == nullptr) f.delivery = device::make_delivery(queue);
  f.draws = draws;
  f.logp_at = size_t(reinterpret_cast<const std::byte*>(logp.data()) - results_.data());
  f.delivery->start(results_.data(), draws > 0 ? f.logp_at + size_t(draws) * sizeof(W) : 0);
}

template <class W>
Decoded<W> PassMemory<W>::finish() {
  assert(finished_ < started_);
  Fetch& f = fetches_[finished_++ % fetches_.size()];
  Decoded<W> result{std::vector<int32_t>(size_t(f.draws)), std::vector<W>(size_t(f.draws))};
  const std::byte* const at = f.delivery->wait();
  if (f.draws == 0) return result;
  std::memcpy(result.token.data(), at, size_t(f.draws) * sizeof(int32_t));
  std::memcpy(result.logp.data(), at + f.logp_at, size_t(f.draws) * sizeof(W));
  return result;
}

template class PassMemory<float>;
template class PassMemory<double>;

}  // namespace cadre::trainer
