// Device memory. Buffer owns one allocation. Arena hands out views of one allocation whose size was found by a
// measuring pass: code that asks an Arena for its views runs twice, first to measure, then for real, so nothing is
// allocated inside a step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::device {

// Zero-filled, 64-byte aligned. CPU pages are reserved, not touched: an unused worst case costs no memory.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DeviceKind device, size_t bytes);
  ~Buffer();
  // Knows its size and holds nothing: for adding up what a run will take.
  static Buffer planned(size_t bytes) {
    Buffer buffer;
    buffer.bytes_ = bytes;
    return buffer;
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
  }
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  DeviceKind device_ = DeviceKind::kCpu;
};

// Usage: Arena a("activations", device); model.reserve(a); a.allocate(); model.reserve(a);
// After allocate() the same calls in the same order return real views; asking for more than was measured throws.
class Arena {
 public:
  Arena(std::string name, DeviceKind device) : name_(std::move(name)), device_(device) {}
  // Over memory that was taken from another arena, for views that several users take in turns (each after a release).
  // Measures while that arena does.
  Arena(std::string name, View<std::byte, 1> memory)
      : name_(std::move(name)), data_(memory.data()), measured_(size_t(memory.size())) {}

  template <class T, int N>
  View<T, N> take(std::array<int64_t, N> shape) {
    View<T, N> view(nullptr, shape);
    std::byte* p = take_bytes(static_cast<size_t>(view.size()) * sizeof(T));
    return View<T, N>(reinterpret_cast<T*>(p), shape);
  }
  void allocate();  // ends the measuring pass
  bool measuring() const { return data_ == nullptr; }
  size_t bytes() const { return measured_; }
  const std::string& name() const { return name_; }

  // Marks for stack-like reuse: scratch taken after mark() is given back by release(mark).
  size_t mark() const { return used_; }
  void release(size_t mark) { used_ = mark; }

 private:
  std::byte* take_bytes(size_t bytes);  // null while measuring
  std::string name_;
  DeviceKind device_ = DeviceKind::kCpu;
  Buffer buffer_;
  std::byte* data_ = nullptr;
  size_t used_ = 0, measured_ = 0;
};

}  // namespace cadre::device
