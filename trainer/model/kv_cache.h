// Keys and values of one sequence being generated, by layer. One allocation; filled by Decoder::extend.
#pragma once

#include <vector>

#include "parallel/device/memory.h"
#include "trainer/model/network.h"

namespace cadre::trainer {

template <class T>
struct KvLayer {
  device::View<T, 3> k, v;  // (capacity, G, h); k is rotated
  int64_t used = 0;         // rows filled by this layer
};

template <class T>
struct KvCache final : Cache {
  KvCache(int layers, int64_t capacity, int64_t kv_heads, int64_t head_dim, device::DeviceKind device)
      : capacity(capacity), memory(device, size_t(2 * layers * capacity * kv_heads * head_dim) * sizeof(T)) {
    T* next = reinterpret_cast<T*>(memory.data());
    const int64_t size = capacity * kv_heads * head_dim;
    for (int i = 0; i < layers; ++i, next += 2 * size) {
      const std::array<int64_t, 3> shape = {capacity, kv_heads, head_dim};
      layer.push_back({{next, shape}, {next + size, shape}, 0});
    }
  }
  int64_t capacity;
  device::Buffer memory;
  std::vector<KvLayer<T>> layer;
};

}  // namespace cadre::trainer
