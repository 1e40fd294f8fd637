// What one pass of generation in pages reads beside weights and pages, and what it draws: one copy brings the first, one
// fetches the second. Where each part lies depends on PassSize alone, so that a pass can be recorded
// (parallel/device/recording.h). What is drawn stays where it is for the next pass, which may be loaded before the host
// has seen it.
#pragma once

#include <array>
#include <compare>
#include <vector>

#include "parallel/device/delivery.h"
#include "parallel/device/memory.h"
#include "parallel/device/view.h"
#include "trainer/model/decode_batch.h"

namespace cadre::trainer {

struct PassSize {
  int64_t rows = 0, draws = 0, pages_per_row = 0;
  auto operator<=>(const PassSize&) const = default;
};

template <class W>
class PassMemory {
 public:
  PassMemory(device::DeviceKind device, int64_t most_draws);

  // Queues the copy of a batch; rows and draws that size has more are padding. page_size in tokens.
  void load(device::Queue& queue, const DecodeBatch& batch, const PassSize& size, int64_t page_size);
  // Queues the fetch of what was drawn.
  void fetch(device::Queue& queue, int64_t draws);
  // Waits for the earliest fetch of those, two at most, that were queued and not finished.
  Decoded<W> finish();

  const void* address() const { return inputs_.data(); }
  const PassSize& size() const { return size_; }
  // On the device, of the last load():
  device::View<int32_t, 1> token, position, segment, owner, length, place;  // (rows); place as of store_kv
  device::View<int32_t, 1> follows;                                         // (rows)
  device::View<int32_t, 1> drawn;                                           // (draws) rows
  device::View<double, 1> uniform;                                          // (draws)
  device::View<int32_t, 2> page_table;                                      // (S, pages_per_row)
  device::View<W, 1> logp;                                                  // (draws) written by the pass
  device::View<int32_t, 1> drawn_token;                                     // (draws) likewise
  // (most_draws) of the pass before, until this one draws.
  device::View<const int32_t, 1> last_drawn() const {
    return {reinterpret_cast<const int32_t*>(results_.data()), {most_draws_}};
  }

 private:
  struct Fetch {
    int64_t draws = 0;
    size_t logp_at = 0;  // bytes
    std::unique_ptr<device::Delivery> delivery;
  };
  template <class U, int N>
  void put(device::View<U, N>& view, std::array<int64_t, N> shape);
  // The host's image of a part.
  template <class U, int N>
  U* image(const device::View<U, N>& view) {
    return reinterpret_cast<U*>(host_.data() + (reinterpret_cast<std::byte*>(view.data()) - inputs_.data()));
  }
  void lay_out(const DecodeBatch& batch);

  device::DeviceKind device_;
  int64_t most_draws_;
  device::Buffer results_, inputs_;
  PassSize size_;
  size_t used_ = 0;  // bytes of inputs
  std::vector<std::byte> host_;
  std::array<Fetch, 2> fetches_;
  size_t started_ = 0, finished_ = 0;
};

}  // namespace cadre::trainer
