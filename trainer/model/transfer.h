// Copies between host vectors and device views, for the few small arrays that a model takes in and gives out.
#pragma once

#include <algorithm>
#include <span>

#include "parallel/base/errors.h"
#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::trainer {

// On the CPU device memory is host memory. Other devices bring their copies here.
template <class T>
void upload(device::Queue& queue, std::span<const T> host, device::View<T, 1> view) {
  require(queue.kind() == device::DeviceKind::kCpu, ExitCode::kUsage,
          "the model runs on the CPU only in this build");
  std::copy(host.begin(), host.end(), view.data());
}
template <class T>
void download(device::Queue& queue, device::View<const T, 1> view, std::span<T> host) {
  queue.wait();
  require(queue.kind() == device::DeviceKind::kCpu, ExitCode::kUsage,
          "the model runs on the CPU only in this build");
  std::copy_n(view.data(), host.size(), host.begin());
}

}  // namespace cadre::trainer
