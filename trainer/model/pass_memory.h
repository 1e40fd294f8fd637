// What one pass of generation in pages reads beside weights and pages, and what it draws, in one piece of device memory:
// one copy brings the first, one fetches the second. Where each part lies depends on PassSize alone, so that a pass can
// be recorded (parallel/device/recording.h).
#pragma once

#include <array>
#include <compare>
#include <vector>

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
  explicit PassMemory(device::DeviceKind device) : device_(device) {}

  // Queues the copy of a batch; rows and draws that size has more are padding. page_size in tokens.
  void load(device::Queue& queue, const DecodeBatch& batch, const PassSize& size, int64_t page_size);
  // Queues the fetch of what was drawn; finish() after the queue's next wait().
  void fetch(device::Queue& queue);
  Decoded<W> finish(int64_t draws) const;

  const void* address() const { return memory_.data(); }
  const PassSize& size() const { return size_; }
  // On the device, of the last load():
  device::View<int32_t, 1> token, position, segment, owner, length, place;  // (rows); place as of store_kv
  device::View<int32_t, 1> drawn;                                           // (draws) rows
  device::View<double, 1> uniform;                                          // (draws)
  device::View<int32_t, 2> page_table;                                      // (S, pages_per_row)
  device::View<W, 1> logp;                                                  // (draws) written by the pass
  device::View<int32_t, 1> drawn_token;                                     // (draws) likewise

 private:
  template <class U, int N>
  void put(device::View<U, N>& view, std::array<int64_t, N> shape);
  // The host's image of a part.
  template <class U, int N>
  U* image(const device::View<U, N>& view) {
    return reinterpret_cast<U*>(host_.data() + (reinterpret_cast<std::byte*>(view.data()) - memory_.data()));
  }
  void lay_out(const DecodeBatch& batch);

  device::DeviceKind device_;
  device::Buffer memory_;
  PassSize size_;
  size_t used_ = 0, results_ = 0, inputs_ = 0;  // bytes; end of the results, begin of the inputs
  std::vector<std::byte> host_, fetched_;
};

}  // namespace cadre::trainer
