// Keys and values of many sequences in pages. A page holds its tokens of all layers in one run of memory, so that copying
// one is one copy. Filled by Decoder::start_decode.
#pragma once

#include "parallel/device/kernels.h"
#include "parallel/device/memory.h"
#include "trainer/model/network.h"
#include "trainer/model/pass_memory.h"
#include "trainer/model/recorded_passes.h"

namespace cadre::trainer {

template <class T>
struct PagedCache final : Cache {
  // most_draws in one pass.
  PagedCache(const PageShape& page_shape, int num_layers, int64_t kv_heads, int64_t head_dim,
             int64_t most_draws, device::DeviceKind device)
      : shape(page_shape),
        layers(num_layers),
        num_kv_heads(kv_heads),
        head_size(head_dim),
        memory(device, size_t(page_shape.pages * page_elements()) * sizeof(T)),
        memory_of_pass(device, most_draws) {}

  int64_t layer_elements() const {
    return shape.page_size * num_kv_heads * head_size;
  }  // keys of a layer in a page
  int64_t page_elements() const { return 2 * layers * layer_elements(); }
  T* data() const { return reinterpret_cast<T*>(memory.data()); }
  device::View<T, 1> page(int32_t index) const {
    return {data() + index * page_elements(), {page_elements()}};
  }
  device::KvPages<T> layer(int index) const {
    T* const keys = data() + 2 * index * layer_elements();
    return {keys, keys + layer_elements(), page_elements(), shape.page_size, num_kv_heads, head_size};
  }

  PageShape shape;
  int64_t layers, num_kv_heads, head_size;
  device::Buffer memory;
  PassMemory<device::wide_t<T>> memory_of_pass;
  RecordedPasses passes;
};

// The rows of one pass, on the device.
template <class T>
struct PagedRows {
  device::KvPages<T> pages;                             // of the layer at hand
  device::View<const int32_t, 2> page_table;            // (S, M)
  device::View<const int32_t, 1> owner, length, place;  // (T)
};

}  // namespace cadre::trainer
